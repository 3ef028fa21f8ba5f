"""Facts about policies that think: steps of thinking and of the reply are told apart, token by token."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Message
from orchestrator.core.thinking import Phase, ThinkingMarkers
from orchestrator.policy.engines.chat_template import plain, render
from orchestrator.policy.steps import StepSplitter, TextStream
from orchestrator.policy.thinking import MarkedTokens, thinking_markers

QWEN3 = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
THINK = ThinkingMarkers(start="<think>", end="</think>")
WORDS = [
    "<eos>",
    "<think>",
    "</think>",
    "<th",
    "ink>",
    "</th",
    "\n\n",
    "\n",
    "a",
    "b",
    "```",
    "4",
    "[THINK]",
    "[/THINK]",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(word, special=True) for word in ("<eos>", "[THINK]", "[/THINK]")])
    return made


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def steps(
    tokenizer: Tokenizer,
    words: Sequence[str],
    *,
    markers: ThinkingMarkers = THINK,
    prompt: Sequence[str] = ("a",),
    written: Sequence[str] = (),
    config: StepConfig | None = None,
) -> list[tuple[str, bool]]:
    """Text of each step that is cut from the words, and whether it is thinking."""
    marked = MarkedTokens(markers, tokenizer)
    prefix = ids(*prompt, *written)
    phase, seen = marked.begin(prefix, len(prompt))
    splitter = StepSplitter(
        config or StepConfig(), TextStream(tokenizer, prefix), marked=marked, phase=phase, phase_text=seen
    )
    pieces = [piece for token_id in ids(*words) for piece in splitter.push(token_id)]
    rest = splitter.rest()
    assert [t for p in [*pieces, rest] for t in p.token_ids] == ids(*words), "no token is lost"
    return [(piece.text, piece.thinking) for piece in [*pieces, rest] if piece.token_ids]


def test_thinking_that_ends_is_told_from_the_reply(tokenizer: Tokenizer) -> None:
    words = ["<think>", "a", "\n\n", "b", "</think>", "\n\n", "a", "\n\n", "4"]
    assert steps(tokenizer, words) == [
        ("<think>a\n\n", True),
        ("b</think>", True),
        ("\n\n", False),
        ("a\n\n", False),
        ("4", False),
    ]


def test_thinking_that_is_cut_off_is_all_there_is(tokenizer: Tokenizer) -> None:
    assert steps(tokenizer, ["<think>", "a", "\n\n", "b"]) == [("<think>a\n\n", True), ("b", True)]


def test_a_policy_that_does_not_begin_to_think_replies(tokenizer: Tokenizer) -> None:
    assert steps(tokenizer, ["a", "\n\n", "<think>", "b", "</think>"]) == [
        ("a\n\n", False),
        ("<think>b</think>", False),
    ]


def test_a_marker_may_span_tokens(tokenizer: Tokenizer) -> None:
    words = ["\n", "<th", "ink>", "a", "</th", "ink>", "4"]
    assert steps(tokenizer, words) == [("\n<think>a</think>", True), ("4", False)]


def test_a_marker_in_a_code_block_of_the_reply_is_text(tokenizer: Tokenizer) -> None:
    words = ["<think>", "a", "</think>", "```", "<think>", "b", "</think>", "```"]
    assert steps(tokenizer, words) == [("<think>a</think>", True), ("```<think>b</think>```", False)]


def test_markers_that_are_special_tokens_are_seen_though_decoders_leave_them_out(tokenizer: Tokenizer) -> None:
    markers = ThinkingMarkers(start="[THINK]", end="[/THINK]")
    words = ["[THINK]", "a", "[/THINK]", "4", "[/THINK]"]
    assert steps(tokenizer, words, markers=markers) == [("[THINK]a[/THINK]", True), ("4", False)]


def test_a_prompt_may_have_begun_or_ended_the_thinking(tokenizer: Tokenizer) -> None:
    words = ["a", "</think>", "4"]
    assert steps(tokenizer, words, prompt=["a", "<think>", "\n"]) == [("a</think>", True), ("4", False)]
    assert steps(tokenizer, words, prompt=["<think>", "</think>", "\n\n"]) == [("a</think>4", False)]


@pytest.mark.parametrize("size", range(8))
def test_what_is_continued_anywhere_is_cut_into_the_same_phases(tokenizer: Tokenizer, size: int) -> None:
    words = ["\n", "<th", "ink>", "a", "</th", "ink>", "4", "<think>"]
    rest = steps(tokenizer, words[size:], written=words[:size])
    thinking = "".join(text for text, thinks in rest if thinks)
    reply = "".join(text for text, thinks in rest if not thinks)
    whole, written = "\n<think>a</think>", "".join(words[:size])
    assert thinking == whole[len(written) :]
    assert reply == "4<think>"[max(0, len(written) - len(whole)) :]


@pytest.mark.parametrize("cut", [70, 99, 100, 101, 150])
@pytest.mark.parametrize("begin", [["<think>"], ["<th", "ink>"], ["a"]])
def test_a_long_sequence_is_continued_in_its_phase(tokenizer: Tokenizer, begin: list[str], cut: int) -> None:
    words = begin + ["a"] * (99 - len(begin)) + ["b", "</think>", *["a"] * 99, "</think>", "b"]
    whole = [thinks for text, thinks in steps(tokenizer, words) for _ in text]
    rest = steps(tokenizer, words[cut:], written=words[:cut])
    assert [thinks for text, thinks in rest for _ in text] == whole[len("".join(words[:cut])) :]


def test_thinking_may_have_delimiters_of_its_own(tokenizer: Tokenizer) -> None:
    words = ["<think>", "a", "\n", "b", "\n\n", "a", "</think>", "a", "\n", "b", "\n\n", "4"]
    config = StepConfig(thinking_delimiters=["\n\n\n"])
    assert steps(tokenizer, words, config=config) == [
        ("<think>a\nb\n\na</think>", True),
        ("a\nb\n\n", False),
        ("4", False),
    ]


# gpt-oss's channels

CHANNELS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>")
GPT_OSS = (
    "{%- for message in messages %}{{ '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}"
    "{%- endfor %}{#- an assistant's turn: <|start|>assistant<|channel|>final<|message|> #}"
    "{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def harmony() -> Tokenizer:
    """Of characters, with the special tokens of gpt-oss."""
    made = Tokenizer(models.BPE({chr(code): code for code in range(128)}, []))
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(token, special=True) for token in CHANNELS])
    return made


def in_channels(tokenizer: Tokenizer, text: str, size: int = 0) -> list[tuple[str, bool]]:
    """As `steps`, of a text of gpt-oss that is continued after its first `size` tokens."""
    markers = thinking_markers("auto", of(GPT_OSS))
    assert markers is not None
    marked = MarkedTokens(markers, tokenizer)
    prompt = tokenizer.encode("<|start|>user<|message|>2 + 2?<|end|><|start|>assistant").ids
    written = tokenizer.encode(text).ids
    prefix = [*prompt, *written[:size]]
    phase, seen = marked.begin(prefix, len(prompt))
    splitter = StepSplitter(StepConfig(), TextStream(tokenizer, prefix), marked=marked, phase=phase, phase_text=seen)
    pieces = [piece for token_id in written[size:] for piece in splitter.push(token_id)]
    return [(piece.text, piece.thinking) for piece in [*pieces, splitter.rest()] if piece.token_ids]


ANALYSIS = "<|channel|>analysis<|message|>2 + 2 is final.\n\nSo 4.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"


def test_the_answer_of_gpt_oss_is_what_stands_in_its_last_channel(harmony: Tokenizer) -> None:
    before, after = ANALYSIS.split("\n\n")
    thinking = [(f"{before}\n\n", True), (after + FINAL, True)]
    assert in_channels(harmony, f"{ANALYSIS}{FINAL}It is\n\n4<|return|>") == [
        *thinking,
        ("It is\n\n", False),
        ("4", False),
    ]
    twice = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert in_channels(harmony, f"{twice}{ANALYSIS}{FINAL}4")[-1] == ("4", False)
    assert in_channels(harmony, f"{FINAL}4") == [(FINAL, True), ("4", False)]
    assert all(thinks for _, thinks in in_channels(harmony, ANALYSIS))


def test_gpt_oss_is_continued_anywhere_in_its_phase(harmony: Tokenizer) -> None:
    text = f"{ANALYSIS}{FINAL}It is 4"
    whole = [thinks for part, thinks in in_channels(harmony, text) for _ in harmony.encode(part).ids]
    for size in range(len(whole)):
        rest = [thinks for part, thinks in in_channels(harmony, text, size) for _ in harmony.encode(part).ids]
        assert rest == whole[size:], size


def test_what_ends_the_thinking_of_gpt_oss_from_outside_begins_the_last_channel(harmony: Tokenizer) -> None:
    markers = thinking_markers("openai_gptoss", of(None))
    assert markers is not None and markers == thinking_markers("auto", of(GPT_OSS))
    cut = "<|channel|>analysis<|message|>2 + 2"
    assert in_channels(harmony, f"{cut}{markers.ending}4") == [(cut + markers.ending, True), ("4", False)]


# which markers


def of(template: str | None) -> SimpleNamespace:
    return SimpleNamespace(chat_template=template)


def test_auto_is_what_the_chat_template_says() -> None:
    assert thinking_markers("auto", of(QWEN3)) == THINK
    assert thinking_markers("auto", of("[THINK]...[/THINK]")) == ThinkingMarkers(start="[THINK]", end="[/THINK]")
    assert thinking_markers("auto", of("{{ messages }}")) is None and thinking_markers("auto", of(None)) is None
    assert thinking_markers("none", of(QWEN3)) is None
    assert thinking_markers({"start": "(", "end": ")"}, of(None)) == ThinkingMarkers(start="(", end=")")


def test_a_parser_that_vllm_has_not_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"policy\.thinking: vLLM has no reasoning parser 'qwen4'; it has .*qwen3"):
        thinking_markers("qwen4", of(None))


@pytest.mark.parametrize(
    "value", ["", None, {"start": "<think>"}, {"start": "", "end": "x"}, {"start": "x", "end": "\n"}, 3]
)
def test_what_is_no_way_to_say_it_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="policy: thinking must be auto, none, a reasoning parser's name or"):
        PolicyConfig(model="m", thinking=value)


# prompts


class Template:
    """A tokenizer with a chat template."""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: object) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        options.pop("tokenize")
        rendered, _ = render_jinja_template([conversation], chat_template=self.chat_template, **options)
        return str(rendered[0])


QUESTION = (Message(role="user", content="2 + 2?"),)


def test_arguments_of_the_chat_template_are_the_users(tokenizer: Tokenizer) -> None:
    thinks = render(Template(QWEN3), QUESTION, PolicyConfig(model="m"), {})
    assert thinks.endswith("<|im_start|>assistant\n")
    config = PolicyConfig(model="m", chat_template_kwargs={"enable_thinking": False})
    assert render(Template(QWEN3), QUESTION, config, {}).endswith("</think>\n\n")
    assert render(Template(QWEN3), QUESTION, config, {"enable_thinking": True}) == thinks  # a request's own come last


def test_a_system_prompt_and_examples_come_before_the_problem() -> None:
    examples = [Message(role="user", content="1 + 1?"), Message(role="assistant", content="2")]
    config = PolicyConfig(model="m", system_prompt="Be brief.", examples=examples)
    told = render(Template("{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}"), QUESTION, config, {})
    assert told == "system: Be brief.|user: 1 + 1?|assistant: 2|user: 2 + 2?|"
    own = (Message(role="system", content="Be long."), *QUESTION)
    told = render(Template("{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}"), own, config, {})
    assert told == "system: Be long.|user: 1 + 1?|assistant: 2|user: 2 + 2?|"
    with pytest.raises(ValueError, match="examples: role must be user or assistant, got 'system'"):
        PolicyConfig(model="m", examples=[Message(role="system", content="x")])


def test_a_base_model_gets_a_plain_prompt() -> None:
    examples = [Message(role="user", content="Q: 1 + 1?"), Message(role="assistant", content="A: 2")]
    config = PolicyConfig(model="m", examples=examples)
    told = render(Template(None), (Message(role="user", content="Q: 2 + 2?"),), config, {})
    assert told == "Q: 1 + 1?\nA: 2\n\nQ: 2 + 2?\n"
    assert plain(QUESTION) == "2 + 2?\n"


def test_what_a_template_refuses_is_the_problems_error() -> None:
    with pytest.raises(ProblemError, match="the chat template refuses these messages"):
        render(Template("{{ raise_exception('no') }}"), QUESTION, PolicyConfig(model="m"), {})


def test_without_markers_nothing_is_thinking(tokenizer: Tokenizer) -> None:
    splitter = StepSplitter(StepConfig(), TextStream(tokenizer), phase=Phase.THINKING)
    [piece] = [*splitter.push(WORDS.index("</think>")), splitter.rest()]
    assert not piece.thinking
