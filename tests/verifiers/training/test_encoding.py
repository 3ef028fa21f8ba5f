"""Ids and boundaries are where the verifiers read them."""

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.tinymath.task import generate
from experiments.tinymath.tokenizer import build_tokenizer, completion_ids
from tests.labelled import labelled
from verifiers.training.encoding import encode_separated, encode_stream, encode_whole
from verifiers.training.labelled import LabelledSolution

TOKENIZER = build_tokenizer()
TWO_STEPS = LabelledSolution(
    problem_id="p",
    source="judge",
    prompt="How many now?",
    completions=("Answer: 1", "Answer: 12"),
    labels=(1.0, 0.0),
)


def test_text_is_encoded_as_the_policy_would_have_written_it() -> None:
    for problem in generate("train", 10):
        written = labelled(TOKENIZER, problem, completion_ids(TOKENIZER, problem.solution))
        text = LabelledSolution(
            problem_id=written.problem_id,
            source="exact",
            prompt=written.prompt,
            completions=written.completions,
            labels=written.labels,
        )
        assert encode_stream(text, TOKENIZER, "\n\n") == encode_stream(written, TOKENIZER, "\n\n")


def test_a_step_ends_with_the_token_that_completes_the_delimiter() -> None:
    tokens = ["<eos>", "a", ".\n\n", "b", "\n", "<unk>"]
    base = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Split(Regex(r"\.\n\n|\n|[ab]"), behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    solution = LabelledSolution(
        problem_id="p", source="judge", prompt="a", completions=("a.", "b", "b"), labels=(1.0, 0.5, None)
    )
    encoded = encode_stream(solution, tokenizer, "\n\n")
    assert encoded.completion_ids == (1, 2, 3, 4, 4, 3, 0)
    assert encoded.boundaries == (2, 5, 7)
    assert encoded.labels == (1.0, 0.5, None)


def test_two_class_scores_are_read_at_the_separator_after_each_step() -> None:
    encoded = encode_separated(TWO_STEPS, TOKENIZER, "\n\n")
    assert TOKENIZER.decode(encoded.prompt_ids) == "How many now?"
    assert TOKENIZER.decode(encoded.completion_ids) == "Answer: 1\n\nAnswer: 12\n\n"
    separator = TOKENIZER.convert_tokens_to_ids("\n\n")
    assert [encoded.completion_ids[end - 1] for end in encoded.boundaries] == [separator, separator]


def test_a_whole_solution_has_one_score_at_its_end() -> None:
    encoded = encode_whole(TWO_STEPS, TOKENIZER, "\n\n")
    assert TOKENIZER.decode(encoded.completion_ids) == "How many now?<assistant>Answer: 1\n\nAnswer: 12<eos>"
    assert (encoded.boundaries, encoded.labels) == ((len(encoded.completion_ids),), (0.0,))


def test_a_step_without_tokens_is_refused() -> None:
    solution = LabelledSolution(
        problem_id="p", source="judge", prompt="How", completions=("1",), labels=(1.0,), prompt_ids=(5,), step_ids=((),)
    )
    with pytest.raises(ValueError, match="a step has no token"):
        encode_stream(solution, TOKENIZER, "\n\n")
