import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from orchestrator.core.nouns import Message, Problem
from tests.verifiers.reward_checkpoints import byte_level, metaspace
from verifiers.alignment import Aligner
from verifiers.formats import FORMATS, Rendering

AWKWARD = (
    "caf\u00e9 cafe\u0301 e",  # é, composed and not; the next one begins with a combining mark
    "\u0301 = \u00bd, \u4e09\u52a0\u56db \u0663 + \u0664",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 and \U0001f1fa\U0001f1f3\n",
    "   leading spaces, trailing too   \n\n",
    "\\frac{1}{2} \\cdot \\left(x_{1}^{2}\\right) = \\boxed{\\dfrac{7}{2}}\n\n",
    "",
    " ки ки, <extra_0><|im_end|>\n+ <s> </s> <0x41> \\n\n\n",
    "\t\r\n\u00a0\u200b",
)
PROBLEM = Problem(id="p", messages=(Message(role="user", content="<extra_0> or ки or <s>: what is 3 + 4? e"),))


def chat(messages: list[Message]) -> str:
    return "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)


TOKENIZERS = {
    "qwen_prm": byte_level,
    "math_shepherd": metaspace,
    "skywork_prm": byte_level,
    "rlhflow_prm": byte_level,
    "two_class_prm": byte_level,
    "orm": byte_level,
}
LAST = {"qwen_prm": "<extra_0>", "math_shepherd": "▁ки", "skywork_prm": "Ċ", "rlhflow_prm": "+", "two_class_prm": "Ċ"}
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(AWKWARD)


@settings(max_examples=60)
@given(name=st.sampled_from(sorted(LAST)), steps=st.lists(texts, min_size=1, max_size=5))
def test_marks_are_placed_exactly_in_any_text(name: str, steps: list[str]) -> None:
    tokenizer = TOKENIZERS[name]()
    rendering = FORMATS[name].render(PROBLEM, steps, chat)
    tokens = Aligner(tokenizer, bos_id=1).tokenise(rendering)
    assert len(tokens.marks) == len(steps) and list(tokens.marks) == sorted(set(tokens.marks))
    assert {tokenizer.id_to_token(tokens.ids[mark]) for mark in tokens.marks} == {LAST[name]}
    for number, mark in enumerate(tokens.marks):  # what is before a mark is what was written up to it
        before = tokenizer.decode(list(tokens.ids[: mark + 1]), skip_special_tokens=False)
        written = rendering.text[: rendering.marks[number][1]]
        assert normal(before, tokenizer, rendering) == normal(written, tokenizer, None)


def normal(text: str, tokenizer: Tokenizer, rendering: Rendering | None) -> str:
    """As the tokenizer's normalizer leaves it, without the bos token that the aligner put there."""
    if rendering is not None and rendering.bos:
        text = text.removeprefix(tokenizer.id_to_token(1)).removeprefix(" ")
    return tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text


@pytest.mark.parametrize("name", FORMATS)
def test_ordinary_text_has_the_tokens_of_the_published_usage(name: str) -> None:
    """Which encodes the whole, or each piece."""
    tokenizer = TOKENIZERS[name]()
    rendering = FORMATS[name].render(Problem.from_prompt("p", "What is 3 + 4?"), AWKWARD[:6], chat)
    wanted = [i for piece in rendering.pieces for i in tokenizer.encode(piece, add_special_tokens=False).ids]
    assert list(Aligner(tokenizer).tokenise(rendering).ids) == wanted


def test_a_special_token_in_the_text_is_text() -> None:
    tokenizer = byte_level()
    extra, end = tokenizer.token_to_id("<extra_0>"), tokenizer.token_to_id("<|im_end|>")
    rendering = FORMATS["qwen_prm"].render(PROBLEM, ["a <extra_0> b", "c<|im_end|>"], chat)
    tokens = Aligner(tokenizer).tokenise(rendering)
    assert [index for index, token in enumerate(tokens.ids) if token == extra] == list(tokens.marks)
    assert tokens.ids.count(end) == 3
    assert tokenizer.decode(list(tokens.ids), skip_special_tokens=False) == rendering.text


def rendering(text: str, mark: str, **fields: bool) -> Rendering:
    start = text.index(mark)
    return Rendering(pieces=(text,), marks=((start, start + len(mark)),), quoted=((0, start),), **fields)


@pytest.mark.parametrize(
    ("text", "mark", "reason"),
    [
        ("one xyzxyz", "xyzxyz", "is more than one token"),
        ("So", "S", "no token of the verifier ends where 'S' does"),
        ("the answer", "swer", "shares a token with"),
    ],
)
def test_a_mark_that_is_no_token_of_its_own_is_an_error(text: str, mark: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"after step 0 .*{reason}"):
        Aligner(byte_level()).tokenise(rendering(text, mark))


def test_a_mark_that_the_tokenizer_can_t_tell_from_text_is_an_error_where_the_text_holds_it() -> None:
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.add_tokens(["<step>"])  # added, and not special: it is a token wherever it stands
    aligner = Aligner(tokenizer)
    assert aligner.tokenise(rendering("one <step>", "<step>")).marks
    with pytest.raises(ValueError, match="the text holds the verifier's mark '<step>'"):
        aligner.tokenise(Rendering(pieces=("a <step> b<step>",), marks=((10, 16),), quoted=((0, 10),)))


def test_a_mark_of_several_tokens_is_read_at_its_last() -> None:
    tokens = Aligner(byte_level()).tokenise(rendering("one xyzxyz two", "xyzxyz", whole_marks=False))
    assert byte_level().decode(list(tokens.ids[: tokens.marks[0] + 1])) == "one xyzxyz"
