"""Facts about the texts of the tokens that could have been written in the place of one."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from orchestrator.core.alternatives import Alternatives, ReadToken
from orchestrator.policy.likeliest import Reader, read_back
from orchestrator.policy.steps import Vocabulary

WORDS = ["<eos>", "▁Yes", "▁No", "Yes", "?", "▁so"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """It leaves out the first space of what it decodes, as those of SentencePiece do."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return tokenizer


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer)


def test_what_stands_for_a_token_is_read_in_its_place(vocabulary: Vocabulary) -> None:
    reader = Reader(vocabulary, ("Yes", "No"))
    reader.push(4, "?", {4: -0.1})
    reader.push(1, " Yes", {1: -0.5, 2: -1.0, 0: -2.0})
    logprobs = ((" Yes", -0.5), (" No", -1.0), (" ", -2.0))
    assert reader.take(5) == (Alternatives(at=1, text=" Yes", logprobs=logprobs),)
    assert reader.take(5) == ()


def test_places_count_from_the_begin_of_each_segment(vocabulary: Vocabulary) -> None:
    reader = Reader(vocabulary, ("Yes",))
    for token_id, text in ((4, "?"), (3, "Yes"), (4, "?"), (3, "Yes")):
        reader.push(token_id, text, {token_id: -0.5})
    assert [token.at for token in reader.take(4)] == [1]
    assert [token.at for token in reader.take(4)] == [1]


def test_a_token_beyond_the_vocabulary_is_no_text(vocabulary: Vocabulary) -> None:
    reader = Reader(vocabulary, ("Yes",))
    reader.push(3, "Yes", {3: -0.5, 99: -1.0})
    [token] = reader.take(3)
    assert token.logprobs == (("Yes", -0.5), ("", -1.0))


def test_tokens_that_are_read_back_are_named_as_in_the_text_and_so_is_what_stands_for_them(
    tokenizer: Tokenizer, vocabulary: Vocabulary
) -> None:
    told = [{}, {1: -0.5, 2: -0.1}, {0: -3.0, 1: -0.2}]
    first, yes, end = read_back(tokenizer, vocabulary, [4, 1, 0], told, 0)
    assert first == ReadToken(text="?")
    assert yes == ReadToken(text=" Yes", logprob=-0.5, likeliest=((" No", -0.1), (" Yes", -0.5)))
    assert (end.text, end.special, end.logprob, end.likeliest[-1]) == ("<eos>", True, -3.0, ("<eos>", -3.0))
    assert read_back(tokenizer, vocabulary, [4, 1, 0], told, 1) == (yes, end)
