import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.coverage import (
    FORMS,
    extrapolate,
    fit_coverage,
    fit_exponentiated_power_law,
    fit_log_linear,
    foretell,
)
from experiments.analysis.intervals import Over
from experiments.analysis.metrics import pass_at_k, powers_of_two

KS = powers_of_two(1024)


def power_law(a: float, b: float) -> dict[int, float]:
    return {k: math.exp(a * k**b) for k in KS}


@settings(deadline=None, max_examples=50)
@given(st.floats(-4.0, -0.1), st.floats(-0.9, -0.1))
def test_the_parameters_of_a_power_law_are_recovered(a: float, b: float) -> None:
    fit = fit_exponentiated_power_law(power_law(a, b))
    assert (fit.first, fit.second) == pytest.approx((a, b), rel=1e-4)
    assert fit.r_squared == pytest.approx(1)
    assert fit.rmse < 1e-6 and fit.largest_error < 1e-6


def test_noise_moves_the_parameters_little_and_lowers_the_fit() -> None:
    rng = np.random.default_rng(0)
    noisy = {k: min(1.0, c + rng.normal(0, 0.01)) for k, c in power_law(-1.5, -0.35).items()}
    fit = fit_exponentiated_power_law(noisy)
    assert (fit.first, fit.second) == pytest.approx((-1.5, -0.35), abs=0.05)
    assert 0.99 < fit.r_squared < 1
    assert fit.rmse == pytest.approx(0.01, abs=0.006)


def test_the_curve_is_the_nearest_also_where_points_are_far_from_any() -> None:
    coverage = {1: 0.02, 2: 0.5, 4: 0.35, 8: 0.9, 16: 0.85}
    fit = fit_exponentiated_power_law(coverage)
    for a, b in ((1e-3, 0.0), (-1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3)):
        other = sum((math.exp((fit.first + a) * k ** (fit.second + b)) - c) ** 2 for k, c in coverage.items())
        assert other > fit.num_points * fit.rmse**2


def test_the_parameters_of_a_line_in_log_k_are_recovered() -> None:
    fit = fit_log_linear({k: 0.2 + 0.07 * math.log(k) for k in KS})
    assert (fit.first, fit.second) == pytest.approx((0.2, 0.07))
    assert fit.at(100) == pytest.approx(0.2 + 0.07 * math.log(100))
    assert fit.at(10**9) == 1.0, "a line leaves 0..1, a coverage does not"


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.integers(1, 10_000), st.floats(0.01, 0.99), min_size=3, max_size=12), st.sampled_from([*FORMS])
)
def test_any_points_get_a_finite_curve_no_worse_than_its_largest_error(coverage: dict[int, float], form: str) -> None:
    fit = fit_coverage(coverage, form)
    assert math.isfinite(fit.first) and math.isfinite(fit.second)
    assert fit.rmse <= fit.largest_error + 1e-12
    assert all(0 <= fit.at(k) <= 1 for k in (1, 7, 10**6))


def test_a_curve_is_judged_on_k_that_it_has_not_seen() -> None:
    coverage = power_law(-2.0, -0.4)
    right = extrapolate(coverage, "exponentiated power law", largest_fitted=64)
    wrong = extrapolate(coverage, "log-linear", largest_fitted=64)
    assert set(right.measured) == {128, 256, 512, 1024} and right.fit.num_points == 7
    assert right.mean_error < 1e-6
    assert wrong.fit.r_squared > 0.98, "it fits what it has seen"
    assert wrong.last_error > 0.05, "and promises too much beyond"
    assert wrong.mean_error == pytest.approx(
        sum(abs(wrong.fit.at(k) - coverage[k]) for k in wrong.measured) / len(wrong.measured)
    )


def test_a_fit_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="at least 3 values of k with a coverage between 0 and 1"):
        fit_exponentiated_power_law({1: 0.5, 2: 0.6, 4: 1.0, 8: 1.0})
    with pytest.raises(ValueError, match=r"coverages in 0\.\.1, got \{2: 1\.2\}"):
        fit_log_linear({1: 0.5, 2: 1.2, 4: 0.9})
    with pytest.raises(ValueError, match="wanted a form of exponentiated power law, log-linear, got 'cubic'"):
        fit_coverage({1: 0.5}, "cubic")
    with pytest.raises(ValueError, match="a measured k above 1024, got k up to 1024"):
        extrapolate(power_law(-1, -0.3), "log-linear", largest_fitted=1024)
    with pytest.raises(ValueError, match="wanted k >= 1, got 0"):
        fit_log_linear({1: 0.5, 2: 0.6, 4: 0.7}).at(0)


def test_what_is_foretold_has_an_interval_that_holds_what_is_measured() -> None:
    rng = np.random.default_rng(4)
    correct = {str(i): int(rng.binomial(256, rate)) for i, rate in enumerate(rng.beta(0.4, 1.2, size=150))}
    measured = {k: {p: pass_at_k(256, c, k) for p, c in correct.items()} for k in powers_of_two(32)}
    found = foretell(measured, "exponentiated power law", [8, 64], num_resamples=60)
    truth = np.mean([pass_at_k(256, c, 64) for c in correct.values()])
    assert found[64].low < truth < found[64].high
    assert found[64].low < found[64].value < found[64].high and found[64].over is Over.BOTH
    means = {k: float(np.mean(list(by_problem.values()))) for k, by_problem in measured.items()}
    assert found[64].value == pytest.approx(fit_coverage(means, "exponentiated power law").at(64))
    with pytest.raises(ValueError, match="the same problems for each k"):
        foretell({1: {"a": 0.5}, 2: {"b": 0.5}}, "log-linear", [4])
