"""Batches hold every solution once, and are the same functions of the seed at every call."""

from collections import Counter
from itertools import islice

import pytest

from verifiers.training.batches import endless_batches, plan_epoch, split_by_problem
from verifiers.training.encoding import Encoded
from verifiers.training.labelled import LabelledSolution

LIMITS = {"batch_tokens": 60, "per_problem": 2, "seed": 3}


def test_an_epoch_holds_every_solution_once_within_the_limit(toy: list[Encoded]) -> None:
    batches = plan_epoch(toy, epoch=0, **LIMITS)
    assert sorted(i for batch in batches for i in batch) == list(range(len(toy)))
    for batch in batches:
        groups = Counter(toy[i].problem_id for i in batch)
        assert max(groups.values()) <= 2 * LIMITS["per_problem"]  # two groups of one problem may meet
        assert len(groups) == 1 or sum(len(toy[i].completion_ids) for i in batch) <= LIMITS["batch_tokens"]
    assert batches != plan_epoch(toy, epoch=1, **LIMITS)


def test_skipping_goes_on_where_an_earlier_call_stopped(toy: list[Encoded]) -> None:
    num_batches = 3 * len(plan_epoch(toy, epoch=0, **LIMITS))
    all_batches = list(islice(endless_batches(toy, **LIMITS), num_batches))
    for skip in (1, num_batches // 2, num_batches - 1):
        assert list(islice(endless_batches(toy, skip=skip, **LIMITS), num_batches - skip)) == all_batches[skip:]


def test_a_problem_is_on_one_side_of_the_split() -> None:
    solutions = [
        LabelledSolution(problem_id=f"p{i // 4}", source="exact", prompt="", completions=("x",), labels=(1.0,))
        for i in range(40)
    ]
    training, validation = split_by_problem(solutions, 0.3, seed=0)
    assert len(validation) == 12 and len(training) == 28
    assert not {s.problem_id for s in training} & {s.problem_id for s in validation}
    with pytest.raises(ValueError, match="at least two problems"):
        split_by_problem(solutions[:4], 0.3, seed=0)
