import math
from statistics import fmean, stdev, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.intervals import (
    Z_95,
    Over,
    bootstrap_mean,
    bootstrap_problems,
    clustered_standard_error,
    mean_over,
    wilson_interval,
)

NUMBERS = st.floats(-5, 5)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_has_its_published_values(successes: int, total: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, total)  # 81/263 and 15/148: Newcombe (1998), table I
    assert interval.value == successes / total
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "total"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="wilson_interval"):
        wilson_interval(successes, total)


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    values = [0.0, 1.0] * 200
    interval = bootstrap_mean(values)
    assert interval.value == 0.5
    assert (interval.low, interval.high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.005)  # 1.96 x 0.5 / 20
    assert bootstrap_mean([0.3] * 10).high == pytest.approx(0.3)


def test_resampling_is_the_same_every_time() -> None:
    assert bootstrap_mean([0.0, 1.0, 1.0]) == bootstrap_mean([0.0, 1.0, 1.0])
    assert bootstrap_problems([0.0, 1.0, 1.0], fmean) == bootstrap_problems([0.0, 1.0, 1.0], fmean)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])


def test_a_resampled_statistic_has_the_interval_of_a_resampled_mean() -> None:
    values = [0.0, 1.0] * 50
    of_any, of_mean = bootstrap_problems(values, fmean), bootstrap_mean(values)
    assert of_any is not None and of_any.over is of_mean.over is Over.BOTH
    assert (of_any.value, of_any.low, of_any.high) == pytest.approx((0.5, of_mean.low, of_mean.high), abs=0.02)


def test_a_statistic_without_a_value_has_no_interval() -> None:
    assert bootstrap_problems([1.0, 2.0], lambda _: None) is None
    sometimes = bootstrap_problems([1.0, 2.0], lambda drawn: fmean(drawn) if 1.0 in drawn else None)
    assert sometimes is not None and sometimes.high < 2, "resamples without a value are left out"
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap_problems([], fmean)


@settings(deadline=None, max_examples=50)
@given(st.lists(NUMBERS, min_size=2, max_size=30))
def test_rows_apart_have_the_usual_error_and_rows_repeated_no_smaller_one(values: list[float]) -> None:
    apart = clustered_standard_error(values, range(len(values)))
    assert apart == pytest.approx(stdev(values) / math.sqrt(len(values)), abs=1e-9)
    repeated = clustered_standard_error(values * 3, [*range(len(values))] * 3)
    assert repeated == pytest.approx(apart, abs=1e-9), "three copies of a row are no news"


def test_clusters_of_different_sizes_have_the_error_worked_out_by_hand() -> None:
    values, clusters = [1.0, 1.0, 0.0, 0.0, 1.0], ["a", "a", "b", "b", "c"]
    # mean 0.6; residual sums 0.8, -1.2, 0.4; squares 0.64 + 1.44 + 0.16 = 2.24; times 3/2; over 5
    assert clustered_standard_error(values, clusters) == pytest.approx(math.sqrt(2.24 * 1.5) / 5)


def test_an_error_needs_two_clusters_and_one_for_each_value() -> None:
    with pytest.raises(ValueError, match="got 2 values, 2 clusters, 1 different"):
        clustered_standard_error([1.0, 0.0], ["a", "a"])
    with pytest.raises(ValueError, match="got 2 values, 1 clusters"):
        clustered_standard_error([1.0, 0.0], ["a"])


def test_intervals_of_seeds_and_of_problems_add_up_to_that_of_both() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 0.5, size=200)
    by_problem = {str(i): rng.binomial(1, rate, size=4).astype(float).tolist() for i, rate in enumerate(rates)}
    half = {over: (found := mean_over(by_problem, over)).high - found.value for over in Over}
    assert half[Over.BOTH] ** 2 == pytest.approx(half[Over.PROBLEMS] ** 2 + half[Over.SEEDS] ** 2)
    means = [fmean(values) for values in by_problem.values()]
    assert half[Over.BOTH] == pytest.approx(Z_95 * math.sqrt(variance(means) / 200))
    clusters = [problem for problem, values in by_problem.items() for _ in values]
    rows = [value for values in by_problem.values() for value in values]
    assert half[Over.BOTH] == pytest.approx(Z_95 * clustered_standard_error(rows, clusters))
    assert all(mean_over(by_problem, over).over is over for over in Over)


def test_an_interval_over_seeds_says_where_another_run_on_the_same_problems_falls() -> None:
    rng = np.random.default_rng(1)
    rates = rng.uniform(size=40)
    inside = 0
    for _ in range(300):
        runs = rng.binomial(1, rates, size=(3, 40)).astype(float)
        found = mean_over({str(i): runs[:, i].tolist() for i in range(40)}, Over.SEEDS)
        inside += found.low <= rates.mean() <= found.high
    assert 0.90 < inside / 300 < 0.99


def test_equal_seeds_have_no_noise_and_equal_problems_no_spread() -> None:
    same_seeds = {"a": [1.0, 1.0], "b": [0.0, 0.0]}
    assert mean_over(same_seeds, Over.SEEDS).high == 0.5
    assert mean_over(same_seeds, Over.PROBLEMS).high == mean_over(same_seeds, Over.BOTH).high > 0.5
    only_noise = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    assert mean_over(only_noise, Over.PROBLEMS).high == 0.5


def test_one_seed_cannot_tell_its_noise_from_the_problems() -> None:
    one = {"a": [1.0], "b": [0.0]}
    assert mean_over(one, Over.BOTH).value == 0.5
    for over in (Over.SEEDS, Over.PROBLEMS):
        with pytest.raises(ValueError, match=r"2 seeds .* of each problem, got 1"):
            mean_over(one, over)
    with pytest.raises(ValueError, match="at least 2 problems, got 1"):
        mean_over({"a": [1.0, 0.0]}, Over.BOTH)
