"""Problems are what they say: solvable, distinct, split by their arithmetic, and every step's label exact."""

import random
from dataclasses import fields

import pytest

from experiments.tinymath.corruptions import corrupt
from experiments.tinymath.task import (
    SPLITS,
    STEP_DELIMITER,
    TinyProblem,
    apply,
    arithmetic_of,
    extract_answer,
    generate,
    split_of,
    step_labels,
    stream,
)


def solve(prompt: str) -> int:
    """An independent solver that reads only the prompt."""
    first, *lines, _ = prompt.split("\n")
    value, operands = int(first.split()[2]), dict[str, int]()
    symbols = {"buys": "+", "finds": "+", "sells": "-", "drops": "-", "multiplies": "*", "divides": "//"}
    for line in lines:
        name, verb, *_, amount = line.split()
        if verb in symbols:
            operands[name] = int(amount) if amount.isdigit() else operands[amount]
            value = apply(value, symbols[verb], operands[name])
    return value


def test_solutions_agree_with_an_independent_solver() -> None:
    for problem in generate("train", 300):
        assert int(problem.answer) == solve(problem.prompt)
        assert extract_answer(problem.solution) == problem.answer
        assert problem.level == len(problem.solution.split(STEP_DELIMITER)) - 1


def test_splits_share_no_arithmetic_whatever_the_wording_and_seed() -> None:
    arithmetic = {
        split: {arithmetic_of(p.prompt) for seed in (0, 1) for p in generate(split, 500, seed)} for split in SPLITS
    }
    for split in SPLITS:
        assert all(split_of(key) == split for key in arithmetic[split])
        assert not any(arithmetic[split] & arithmetic[other] for other in SPLITS if other != split)


def test_arithmetic_ignores_names_nouns_and_distractors() -> None:
    one = "Box with 7 books\nKim buys 2\nJon sees 9\nBob finds same as Kim\nHow many now?"
    other = "Box with 7 eggs\nAnn buys 2\nZoe finds same as Ann\nIda wants 1\nHow many now?"
    assert arithmetic_of(one) == arithmetic_of(other) == "7 +2 +@0"


def test_training_stream_stays_in_its_split() -> None:
    problems = stream("train", 0, (1, 8))
    assert {split_of(arithmetic_of(next(problems).prompt)) for _ in range(300)} == {"train"}


@pytest.mark.parametrize("split", SPLITS)
def test_fewer_problems_are_a_prefix_of_more_and_none_repeats(split: str) -> None:
    problems = generate(split, 120, seed=3)
    assert generate(split, 50, seed=3) == problems[:50]
    assert len({arithmetic_of(p.prompt) for p in problems}) == len({p.id for p in problems}) == 120
    assert generate(split, 0) == []


def test_every_level_occurs() -> None:
    assert {problem.level for problem in generate("test", 300)} == set(range(2, 9))


def test_problem_has_exactly_the_agreed_fields() -> None:
    assert [field.name for field in fields(TinyProblem)] == ["id", "prompt", "answer", "level", "solution"]


@pytest.mark.parametrize("text", ["validation", ""])
def test_unknown_split_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"split must be one of train, dev, test, got '{text}'"):
        generate(text, 1)


def test_negative_number_of_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="num_problems must be >= 0, got -1"):
        generate("test", -1)


PROBLEM = TinyProblem(id="p", prompt="", answer="9", level=2, solution="Kim: 5 + 2 = 7\n\nBob: 7 + 2 = 9\n\nAnswer: 9")


@pytest.mark.parametrize(
    ("completion", "labels"),
    [
        ("Kim: 5 + 2 = 7\n\nBob: 7 + 2 = 9\n\nAnswer: 9", [True, True, True]),
        ("Kim: 5 + 2 = 7\n\nBob: 7 + 2 = 9\n\nAnswer: 9<eos>", [True, True, True]),
        ("Kim: 5 + 2 = 7\n\nBob: 7 + 2 = 9\n\n", [True, True]),
        ("Kim: 5 + 2 = 8\n\nBob: 7 + 2 = 9\n\nAnswer: 9", [False, False, False]),
        ("Kim: 5 + 2 = 7\n\nAnswer: 9", [True, False]),
        ("Kim: 5 + 2 = 7\n\nBob: 7 + 2", [True, False]),
        ("Kim: 5 + 2 = 7\n\nBob: 7 + 2 = 9\n\nAnswer: 9\n\nAnswer: 9", [True, True, True, False]),
        ("", [False]),
    ],
)
def test_a_step_is_right_only_if_everything_before_it_is(completion: str, labels: list[bool]) -> None:
    assert step_labels(PROBLEM, completion) == labels


@pytest.mark.parametrize(
    ("text", "answer"), [("Answer: 12", "12"), ("Answer: 1\n\nWait\n\nAnswer: 23<eos>", "23"), ("12", None), ("", None)]
)
def test_the_last_answer_counts(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_corrupted_solutions_are_wrong_and_most_begin_right() -> None:
    rng = random.Random(0)
    labels = [step_labels(problem, corrupt(problem.solution, rng)) for problem in generate("train", 300)]
    assert not any(all(row) for row in labels)
    assert sum(row[0] for row in labels) > 150
