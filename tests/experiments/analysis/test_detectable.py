import numpy as np
import pytest

from experiments.analysis.detectable import smallest_detectable
from experiments.analysis.paired import PairedComparison, compare_paired


def compared(better: int, worse: int, equal: int) -> PairedComparison:
    ours = [1.0] * better + [0.0] * worse + [1.0] * equal
    theirs = [0.0] * better + [1.0] * worse + [1.0] * equal
    return compare_paired(*({f"p{i}": value for i, value in enumerate(side)} for side in (ours, theirs)))


def test_four_of_five_runs_with_that_difference_show_it() -> None:
    """200 problems, of which 40 differ: runs are drawn whose true difference is the smallest detectable one."""
    smallest = smallest_detectable(compared(20, 20, 160))
    assert smallest is not None and 0.05 < smallest < 0.15
    rng = np.random.default_rng(0)
    chances = [0.1 + smallest / 2, 0.1 - smallest / 2, 0.8]
    draws = rng.multinomial(200, chances, size=400).tolist()
    found = sum(compared(*draw).p_value < 0.05 for draw in draws) / len(draws)
    assert 0.7 < found < 0.9


def test_more_comparisons_and_fewer_problems_want_a_larger_difference() -> None:
    one = smallest_detectable(compared(20, 20, 160))
    ten = smallest_detectable(compared(20, 20, 160), num_comparisons=10)
    small = smallest_detectable(compared(10, 10, 80))
    assert one is not None and ten is not None and small is not None
    assert ten > 1.2 * one and small > 1.2 * one


def test_equal_outcomes_still_want_as_many_problems_as_the_exact_test_does() -> None:
    assert smallest_detectable(compared(0, 0, 1000)) == pytest.approx(6 / 1000)
    assert compared(6, 0, 994).p_value < 0.05 < compared(5, 0, 995).p_value


def test_five_problems_can_show_nothing() -> None:
    assert smallest_detectable(compared(0, 0, 5)) is None
    assert compared(5, 0, 0).p_value > 0.05


def test_no_comparison_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted at least 1 comparison, got 0"):
        smallest_detectable(compared(1, 1, 1), num_comparisons=0)
