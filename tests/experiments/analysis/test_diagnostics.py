import random

import pytest

from experiments.analysis.diagnostics import (
    agreement,
    calibration,
    mean_within_problem_auroc,
    over_optimisation,
    pooled_auroc,
    selections,
    where_it_hurts,
    within_problem_auroc,
)
from experiments.analysis.intervals import Over
from experiments.analysis.metrics import SampleSet, prm_at_k


def pool(correct: list[bool], scores: list[float | None]) -> SampleSet:
    return SampleSet(groups=[0 if right else 1 for right in correct], correct=correct, scores=scores)


def test_auroc_within_a_problem_counts_pairs_and_ties_by_halves() -> None:
    assert within_problem_auroc(pool([True, True, False, False], [0.9, 0.4, 0.5, 0.4])) == 2.5 / 4
    assert within_problem_auroc(pool([True, False], [0.2, None])) == 1.0, "what was not scored comes last"
    assert within_problem_auroc(pool([True, True], [0.9, 0.4])) is None
    assert within_problem_auroc(pool([True, False], [None, None])) is None
    unanswered = SampleSet(groups=[0, None, 1], correct=[True, False, False], scores=[0.5, 0.9, 0.1])
    assert within_problem_auroc(unanswered) == 1.0


def test_telling_problems_apart_is_not_telling_samples_apart() -> None:
    easy, hard = pool([True, True, True, False], [0.9] * 4), pool([True, False, False, False], [0.1] * 4)
    pooled, within = pooled_auroc([easy, hard] * 10), mean_within_problem_auroc([easy, hard] * 10)
    assert pooled is not None and within is not None
    assert pooled.value == pytest.approx(
        (3 * 3 + 0.5 * (3 * 1 + 1 * 3)) / 16
    )  # by hand: 3 right at 0.9 against 3 wrong at 0.1
    assert pooled.low > 0.5 and (within.value, within.low, within.high) == (0.5, 0.5, 0.5)
    assert pooled.over is within.over is Over.BOTH
    assert pooled_auroc([pool([True], [0.5])]) is None
    assert pooled_auroc([pool([True, False], [None, None])]) is None
    assert mean_within_problem_auroc([pool([True], [0.5])]) is None


def test_calibration_is_worked_out_by_hand() -> None:
    found = calibration([pool([True, True, True, False], [0.95] * 4), pool([False, True], [0.25, 0.25])])
    assert [(b.count, b.share_right) for b in found.bins] == [(2, 0.5), (4, 0.75)]
    assert found.error.value == pytest.approx((2 * 0.25 + 4 * 0.2) / 6)
    assert found.brier.value == pytest.approx((3 * 0.05**2 + 0.95**2 + 0.25**2 + 0.75**2) / 6)
    assert found.error.low <= found.error.value <= found.error.high and found.error.over is Over.BOTH
    with pytest.raises(ValueError, match="scored samples, got none in 1 pools"):
        calibration([pool([True], [None])])
    with pytest.raises(ValueError, match=r"scores in 0\.\.1, got -2 to 3"):
        calibration([pool([True, False], [-2.0, 3.0])])


def fooled(seed: int) -> SampleSet:
    """Of 16 samples half are right; one wrong one has the highest score of all, the right ones score above the rest."""
    rng = random.Random(seed)
    samples = [(True, rng.uniform(0.5, 0.8)) for _ in range(8)] + [(False, rng.uniform(0.1, 0.4)) for _ in range(7)]
    samples.append((False, 0.99))
    return pool([right for right, _ in samples], [score for _, score in samples])


def test_a_verifier_with_a_loophole_is_over_optimised() -> None:
    pools = {f"p{i}": [fooled(i)] for i in range(30)}
    found = over_optimisation(pools, [1, 2, 4, 8, 16])
    assert found.happens
    assert found.accuracy[1].value == 0.5 and found.accuracy[16].value == 0.0
    assert found.accuracy[4].value == pytest.approx(prm_at_k(fooled(0), 4)) and found.accuracy[4].value > 0.6
    scores = [found.chosen_score[k].value for k in (1, 2, 4, 8, 16)]
    assert scores == sorted(scores) and scores[-1] == pytest.approx(0.99), "what is chosen scores higher and higher"
    assert [drop.k for drop in found.drops] == [1, 2, 4, 8]
    assert all(drop.adjusted_p >= drop.comparison.p_value for drop in found.drops)


def test_a_good_verifier_is_not_over_optimised() -> None:
    good = {f"p{i}": [pool([True, False, False, True], [0.9, 0.2, 0.3, 0.7])] for i in range(30)}
    found = over_optimisation(good, [1, 2, 4])
    assert not found.happens and found.accuracy[4].value == 1.0
    assert all(drop.comparison.difference.value > 0 for drop in found.drops)


def test_over_optimisation_leaves_out_what_was_not_judged_or_is_too_small() -> None:
    mixed = {"a": [fooled(0)], "b": [pool([True, False], [0.5, None])], "c": [pool([True], [0.5])]}
    assert over_optimisation(mixed, [1, 16]).drops[0].comparison.num_problems == 1
    with pytest.raises(ValueError, match=r"got k of \[1, 32\] and 0 such problems of 3"):
        over_optimisation(mixed, [1, 32])
    with pytest.raises(ValueError, match="at least 2 values of k"):
        over_optimisation(mixed, [4])


def test_selectors_choose_by_the_rules_of_the_strategies() -> None:
    found = SampleSet(
        groups=[1, 1, 1, 2, 2, 3, None],
        correct=[False] * 3 + [True] * 2 + [False] * 2,
        scores=[0.1, 0.1, 0.1, 0.4, 0.4, 0.7, 0.99],
    )
    assert selections(found) == {"majority": 1, "weighted": 2, "score": 3}
    assert selections(pool([True], [None])) == {"majority": 0}
    assert selections(SampleSet(groups=[None], correct=[False], scores=[0.4]))["score"] is None


def test_agreement_counts_who_is_right_where_selectors_part() -> None:
    apart = SampleSet(
        groups=[1, 1, 1, 2, 2, 3], correct=[False] * 3 + [True] * 2 + [False], scores=[0.1, 0.1, 0.1, 0.4, 0.4, 0.7]
    )
    alike = pool([True, True, False], [0.9, 0.8, 0.1])
    silent = SampleSet(groups=[None], correct=[False], scores=[0.4])
    rows = {(row.first, row.second): row for row in agreement([apart, alike, alike, alike, silent])}
    assert set(rows) == {("majority", "weighted"), ("majority", "score"), ("weighted", "score")}
    row = rows["majority", "weighted"]
    assert (row.num_problems, row.same_answer.value) == (4, 0.75), "a problem without an answer has no choice"
    assert (row.only_first_right, row.only_second_right, row.both_wrong_apart) == (0, 1, 0)
    assert rows["weighted", "score"].only_first_right == 1
    assert rows["majority", "score"].both_wrong_apart == 1
    assert agreement([pool([True], [None])]) == []


def test_where_the_verifier_hurts_is_named_the_worst_first() -> None:
    verifier = {"a": 0.0, "b": 0.5, "c": 1.0, "rounded": 1 - 1e-15, "only here": 0.0}
    found = where_it_hurts(verifier, {"a": 1.0, "b": 0.75, "c": 0.0, "rounded": 1.0, "only there": 1.0})
    assert [(harm.problem, harm.by_verifier - harm.by_majority) for harm in found] == [("a", -1.0), ("b", -0.25)]
