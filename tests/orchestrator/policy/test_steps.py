import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from orchestrator.core.config import StepConfig
from orchestrator.policy.steps import Piece, StepSplitter, TextStream, Vocabulary

WORDS = ["<eos>", "\n", "\n\n", ".\n\n", "\n\n\n", "a", "b", " c", "Wait", "x\n\ny", "\n\n\n\n"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Words as they are: ids are indices of WORDS."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return tokenizer


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    """One token per byte of UTF-8."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def spaced_tokenizer() -> Tokenizer:
    """As SentencePiece: a space is the first character of a word, and gone at the start of a text."""
    words = ["▁one", "▁two", "<s>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return tokenizer


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def cut(splitter: StepSplitter, token_ids: list[int]) -> list[Piece]:
    """The pieces of a stream, its unfinished rest included."""
    pieces = [piece for token_id in token_ids for piece in splitter.push(token_id)]
    return [*pieces, splitter.rest()] if splitter.num_pending else pieces


def texts(tokenizer: Tokenizer, token_ids: list[int], prefix: list[int] | None = None, **options: object) -> list[str]:
    stop = options.pop("stop", ())
    splitter = StepSplitter(StepConfig(**options), TextStream(tokenizer, prefix or []), stop=stop)  # type: ignore
    return [piece.text for piece in cut(splitter, token_ids)]


def test_a_step_ends_with_the_token_that_completes_a_delimiter(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, ids("a", "\n\n", "b", " c")) == ["a\n\n", "b c"]  # a token of its own
    assert texts(tokenizer, ids("a", ".\n\n", "b")) == ["a.\n\n", "b"]  # inside a merged token
    assert texts(tokenizer, ids("a", "\n", "\n", "b")) == ["a\n\n", "b"]  # spanning two tokens
    assert texts(tokenizer, ids("a", "x\n\ny", "b")) == ["ax\n\ny", "b"]  # whole tokens only


def test_one_delimiter_ends_one_step(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, ids("a", "\n\n\n", "b")) == ["a\n\n\n", "b"]
    assert texts(tokenizer, ids("a", "\n\n\n\n", "b")) == ["a\n\n\n\n", "b"]
    assert texts(tokenizer, ids("a", "\n\n", "\n", "b")) == ["a\n\n", "\nb"]  # the third newline begins the next step
    assert texts(tokenizer, ids("a", "\n\n", "\n", "\n", "b")) == ["a\n\n", "\n\n", "b"]
    assert texts(tokenizer, ids("a", "\n\n\n", "\n", "b")) == ["a\n\n\n", "\nb"]


def test_text_before_the_step_makes_no_delimiter(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, ids("\n", "a", "\n\n"), prefix=ids("b", "\n")) == ["\na\n\n"]
    assert texts(tokenizer, ids("\n", "a"), prefix=ids("b", "\n\n")) == ["\na"]


def test_steps_of_equal_length_ignore_delimiters(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, ids("a", "\n\n", "b", "a", "b"), every_tokens=2) == ["a\n\n", "ba", "b"]


def test_any_of_several_delimiters_ends_a_step(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, ids("a", "\n", "b", "Wait", "a"), delimiters=["\n", "Wait"]) == ["a\n", "bWait", "a"]


def test_special_tokens_have_no_text_and_stay_in_the_ids(tokenizer: Tokenizer) -> None:
    splitter = StepSplitter(StepConfig(), TextStream(tokenizer))
    assert cut(splitter, ids("a", "<eos>")) == [Piece(token_ids=tuple(ids("a", "<eos>")), text="a")]


def test_a_stop_string_is_a_piece_of_its_own(tokenizer: Tokenizer) -> None:
    def pieces(stop: str, *words: str) -> list[tuple[str, bool]]:
        splitter = StepSplitter(StepConfig(), TextStream(tokenizer), stop=[stop])
        return [(p.text, p.stopped) for word in words for p in splitter.push(WORDS.index(word))]

    assert pieces("Wait", "a", "b", "Wait") == [("ab", False), ("Wait", True)]
    assert pieces("Wait", "Wait") == [("Wait", True)]
    assert pieces("b c", "a", "b", " c") == [("a", False), ("b c", True)]  # spans tokens
    assert pieces("y", "a", "x\n\ny") == [("a", False), ("x\n\ny", True)]  # whole tokens
    assert pieces("\nb", "a", "\n\n", "b") == [("a\n\n", False), ("b", True)]  # spans steps: what is left of it
    assert pieces("\n\n", "a", "\n\n") == [("a", False), ("\n\n", True)]  # rather than the end of a step


def test_a_stop_string_may_begin_in_text_of_an_earlier_stream(tokenizer: Tokenizer) -> None:
    splitter = StepSplitter(StepConfig(), TextStream(tokenizer), stop=["ab"], seen="a")
    assert [p.stopped for p in splitter.push(WORDS.index("b"))] == [True]


def test_ids_and_text_of_the_pieces_add_up(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(200):
        stream = [rng.randrange(len(WORDS)) for _ in range(30)]
        prefix = [rng.randrange(len(WORDS)) for _ in range(rng.randrange(12))]
        pieces = cut(StepSplitter(StepConfig(), TextStream(tokenizer, prefix)), stream)
        assert [token_id for piece in pieces for token_id in piece.token_ids] == stream
        assert "".join(piece.text for piece in pieces) == tokenizer.decode(stream)
        assert all("\n\n" in piece.text for piece in pieces[:-1])


def test_a_space_after_the_prefix_is_kept(spaced_tokenizer: Tokenizer) -> None:
    assert TextStream(spaced_tokenizer).push(0) == "one"
    assert TextStream(spaced_tokenizer, [0]).push(1) == " two"
    assert TextStream(spaced_tokenizer, [0] + [2] * 20).push(1) == " two"  # text further back than the first look


def test_characters_of_many_tokens_come_whole(byte_tokenizer: Tokenizer) -> None:
    text = "é→🙂\n\n🙂 end"
    stream = byte_tokenizer.encode(text).ids
    for split in range(len(stream)):  # wherever the prefix ends, within a character too
        before, after = TextStream(byte_tokenizer), TextStream(byte_tokenizer, stream[:split])
        head = "".join(before.push(token_id) for token_id in stream[:split])
        assert head + "".join(after.push(token_id) for token_id in stream[split:]) == text
    pieces = cut(StepSplitter(StepConfig(), TextStream(byte_tokenizer)), stream)
    assert [piece.text for piece in pieces] == ["é→🙂\n\n", "🙂 end"]


def test_an_unfinished_character_is_left_out(byte_tokenizer: Tokenizer) -> None:
    stream = byte_tokenizer.encode("a🙂").ids[:-1]
    assert cut(StepSplitter(StepConfig(), TextStream(byte_tokenizer)), stream) == [
        Piece(token_ids=tuple(stream), text="a")
    ]


def test_the_vocabulary_knows_which_tokens_hold_a_delimiter(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.tokens_with(["\n\n"]) == ids("\n\n", ".\n\n", "\n\n\n", "x\n\ny", "\n\n\n\n")
    assert vocabulary.tokens_with(["nowhere"]) == []


def test_early_text_is_that_of_the_step_and_none_of_a_stop_string(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(500):
        stream = [rng.randrange(len(WORDS)) for _ in range(20)]
        stop = ["".join(rng.choices(WORDS[1:8], k=2)), "b c"]
        splitter = StepSplitter(StepConfig(), TextStream(tokenizer), stop=stop)
        early = ""
        for token_id in stream:
            pieces = splitter.push(token_id)
            if pieces and not pieces[0].stopped:
                assert pieces[0].text.startswith(early)
            elif pieces:
                assert not early, "of a step that is nothing but the stop string"
            if pieces:
                early = ""
            if any(piece.stopped for piece in pieces):
                break
            begin, text = splitter.early()
            assert begin == len(early) or not text
            early += text


def test_early_text_keeps_up_with_the_tokens_where_no_stop_string_may_have_begun(tokenizer: Tokenizer) -> None:
    splitter = StepSplitter(StepConfig(), TextStream(tokenizer), stop=["b c"])
    told = []
    for token_id in ids("a", "b", "a", "b", "\n\n", "a"):
        splitter.push(token_id)
        told.append(splitter.early())
    assert told == [(0, "a"), (1, ""), (1, "ba"), (3, ""), (0, ""), (0, "a")]
