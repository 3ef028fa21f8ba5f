import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.intervals import Over, wilson_interval
from experiments.analysis.paired import (
    benjamini_hochberg,
    compare_paired,
    difference_interval,
    holm,
    mcnemar_exact,
    paired_difference,
    sign_flip_test,
)

# Benjamini and Hochberg (1995), section 3.2: patients with myocardial infarction
PUBLISHED = [
    0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0
]  # fmt: skip
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def test_pairing_finds_a_difference_that_problems_hide() -> None:
    base = {f"p{i}": float(i % 2) for i in range(100)}
    better = base | {f"p{i}": 1.0 for i in range(0, 20, 2)}  # ten more problems, the rest equal
    interval = paired_difference(better, base)
    assert interval.value == pytest.approx(0.1)
    assert interval.low > 0
    assert wilson_interval(60, 100).low < wilson_interval(50, 100).high  # unpaired intervals overlap


def test_pairing_uses_shared_problems_only() -> None:
    assert paired_difference({"a": 1.0, "b": 1.0}, {"b": 0.0, "c": 1.0}).value == 1.0
    with pytest.raises(ValueError, match="no problem in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_mcnemar_is_the_sign_test_of_the_problems_that_one_solves() -> None:
    assert mcnemar_exact(6, 16) == mcnemar_exact(16, 6) == pytest.approx(220112 / 2**22)  # 2 P(X <= 6), X ~ B(22, 1/2)
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_exact(3, 3) == mcnemar_exact(0, 0) == 1.0
    assert 0 < mcnemar_exact(1000, 2000) < 1e-70  # no overflow
    with pytest.raises(ValueError, match="got -1 and 2"):
        mcnemar_exact(-1, 2)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=14))
def test_flipping_signs_of_wins_and_losses_is_mcnemars_test(differences: list[float]) -> None:
    wanted = mcnemar_exact(differences.count(1.0), differences.count(-1.0))
    assert sign_flip_test(differences) == pytest.approx(wanted)


def test_flipped_signs_of_fractions_are_all_tried_or_drawn() -> None:
    differences = [0.5, 0.25, -0.25, 1.0]
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=4)]
    assert sign_flip_test(differences) == pytest.approx(np.mean(np.array(sums) >= 1.5 - 1e-12))
    rng = random.Random(0)
    many = [rng.choice([-1.0, 1.0, 1.0]) for _ in range(40)]
    assert sign_flip_test(many) == pytest.approx(mcnemar_exact(many.count(1.0), many.count(-1.0)), abs=0.01)
    assert sign_flip_test([1.0] * 100) == pytest.approx(1 / 20_001), "never 0"
    assert sign_flip_test([0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        sign_flip_test([])


def test_adjusted_p_values_have_their_published_decisions() -> None:
    assert sum(p <= 0.05 for p in benjamini_hochberg(PUBLISHED)) == 4  # the paper's 4, where Bonferroni finds 3
    assert sum(p <= 0.05 for p in holm(PUBLISHED)) == 3
    assert benjamini_hochberg(PUBLISHED)[3:5] == pytest.approx([0.0095 * 15 / 4, 0.0201 * 15 / 5])
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])  # R's p.adjust
    assert benjamini_hochberg([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.04] * 4)


@settings(deadline=None, max_examples=50)
@given(P_VALUES)
def test_adjusting_never_lowers_a_p_value_nor_changes_their_order(p_values: list[float]) -> None:
    by_holm, by_bh = holm(p_values), benjamini_hochberg(p_values)
    assert all(p <= q + 1e-12 and q <= h + 1e-12 <= 1 + 2e-12 for p, q, h in zip(p_values, by_bh, by_holm, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for adjusted in (by_holm, by_bh):
        assert [adjusted[i] for i in order] == sorted(adjusted)


def test_p_values_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"holm: .* got 1.5"):
        holm([0.1, 1.5])
    with pytest.raises(ValueError, match=r"benjamini_hochberg: .* got -0.1"):
        benjamini_hochberg([-0.1])


def test_a_difference_has_bonett_and_prices_interval() -> None:
    found = difference_interval([1.0] * 16 + [-1.0] * 6 + [0.0] * 78)
    p12, p21 = 17 / 102, 7 / 102
    half = 1.959964 * ((p12 + p21 - (p12 - p21) ** 2) / 102) ** 0.5
    assert found.value == pytest.approx(0.10)
    assert (found.low, found.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half))
    assert found.over is Over.BOTH


def test_problems_that_are_all_equal_still_leave_doubt() -> None:
    found = difference_interval([0.0] * 50)
    assert -0.1 < found.low < -0.02 < 0.02 < found.high < 0.1
    assert paired_difference({"a": 1.0}, {"a": 1.0}).high == 0.0, "where a bootstrap has none"
    with pytest.raises(ValueError, match="got none"):
        difference_interval([])
    with pytest.raises(ValueError, match=r"got 1\.5"):
        difference_interval([0.0, 1.5])


@pytest.mark.parametrize("num_problems", [20, 100])
def test_the_interval_of_a_difference_holds_the_truth_95_times_of_100(num_problems: int) -> None:
    rng = np.random.default_rng(num_problems)
    draws = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.8, 0.15], size=(600, num_problems))
    found = [difference_interval(draw.tolist()) for draw in draws]
    assert 0.93 < np.mean([interval.low <= 0.1 <= interval.high for interval in found]) < 0.99


def test_a_comparison_counts_pairs_and_chooses_its_test() -> None:
    ours = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0, "only ours": 1.0}
    theirs = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0, "only theirs": 0.0}
    found = compare_paired(ours, theirs)
    assert (found.num_problems, found.better, found.worse) == (4, 2, 1)
    assert (found.ours.value, found.theirs.value, found.difference.value) == (0.75, 0.5, 0.25)
    assert found.ours == wilson_interval(3, 4)
    assert found.p_value == mcnemar_exact(2, 1)
    halves = compare_paired({"a": 0.5, "b": 1.0}, {"a": 0.0, "b": 0.0})
    assert halves.p_value == sign_flip_test([0.5, 1.0]) == 0.5
    with pytest.raises(ValueError, match="no problem in common, got 1 problems of ours and 1 of theirs"):
        compare_paired({"a": 1.0}, {"b": 1.0})
