"""Facts about the texts of the tokens that could have been written in the place of one."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from orchestrator.core.alternatives import Alternatives
from orchestrator.policy.likeliest import Reader
from orchestrator.policy.steps import Vocabulary

WORDS = ["<eos>", "▁Yes", "▁No", "Yes", "?", "▁so"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Of a tokenizer that leaves out the first space of what it decodes, as those of SentencePiece do."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
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
