import random
from dataclasses import replace

import pytest

from experiments.labelling.agreement import agreement
from verifiers.training.labelled import LabelledSolution


def solution(problem, text, *labels):
    completions = tuple(f"{text}{i}" for i in range(len(labels)))
    return LabelledSolution(problem_id=problem, source="x", prompt="?", completions=completions, labels=labels)


THEIRS = [solution("p1", "a", 1, 1, 0), solution("p1", "b", 1, 0, 0), solution("p2", "c", 1, 1), solution("p3", "d", 0)]
OURS = [
    solution("p2", "c", 0.9, None),
    solution("p1", "b", 0.7, 0.1, 0.8),
    solution("p1", "a", 0.7, 0.3, 0.2),
    solution("p4", "e", 1),
]


def test_the_same_solutions_are_compared_step_by_step_where_both_know():
    found = agreement(OURS, THEIRS)
    assert (found.num_problems, found.num_solutions, found.num_steps, found.unmatched) == (2, 3, 7, 2)
    assert (found.both_right, found.only_ours, found.only_theirs, found.both_wrong) == (3, 1, 1, 2)
    assert found.equal.value == pytest.approx(5 / 7)
    by_chance = (4 * 4 + 3 * 3) / 49
    assert found.kappa.value == pytest.approx((5 / 7 - by_chance) / (1 - by_chance))
    assert found.first_error.value == pytest.approx(2 / 3)
    assert "7 steps of 3 solutions to 2 problems" in str(found)


def test_auroc_equals_its_definition_also_with_ties():
    rng = random.Random(0)
    theirs = [solution(f"p{i}", "s", *(rng.choice([0.0, 1.0]) for _ in range(4))) for i in range(30)]
    ours = [replace(s, labels=tuple(rng.choice([0.0, 0.25, 0.5, label]) for label in s.labels)) for s in theirs]
    steps = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a.labels, b.labels, strict=True)]
    wins = [(a > b) + (a == b) / 2 for a, right in steps if right for b, wrong in steps if not wrong]
    found = agreement(ours, theirs)
    assert found.auroc.value == pytest.approx(sum(wins) / len(wins))
    assert found.auroc.low < found.auroc.value < found.auroc.high
    assert found.kappa.low < found.kappa.value < found.kappa.high


def test_equal_solutions_go_with_each_other_one_to_one():
    twice = [solution("p1", "a", 1.0), solution("p1", "a", 0.0)]
    assert agreement(twice, twice).equal.value == 1
    assert agreement(twice, twice[:1]).unmatched == 1


def test_nothing_in_common_is_an_error():
    with pytest.raises(ValueError, match="no step in common"):
        agreement(OURS, [solution("p9", "a", 1)])
