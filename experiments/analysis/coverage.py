"""How coverage (pass@k) grows with the number of samples k: two curves, how well they fit, how well they foretell.

Brown et al. (arXiv 2407.21787, section 3) model coverage as exp(a k^b), an exponentiated power law with a, b < 0,
and note that it is often close to a line in log k. Neither is a law: a curve that fits every measured k may be far off
beyond (Schaeffer et al., arXiv 2502.17578, on why and when). So judge it by `extrapolate`, on k that it has not seen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from experiments.analysis.intervals import Interval, Over

Array = npt.NDArray[Any]

_FEWEST = 3  # points: two parameters fit any two
_CONVERGED = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageFit:
    """A fitted curve. `first` and `second` are a and b of exp(a k^b), or intercept and slope of a line in ln k.

    `rmse` and `largest_error` are in coverage (0..1) at the fitted k; `r_squared` is 1 for a perfect fit and 0 for one
    no better than the mean. No intervals: points of one curve share their samples.
    """

    form: str  # a key of FORMS
    first: float
    second: float
    num_points: int
    r_squared: float
    rmse: float
    largest_error: float

    def at(self, k: float) -> float:
        """The coverage that the curve has at k, kept within 0..1. Raises ValueError below k = 1."""
        if k < 1:
            raise ValueError(f"coverage: wanted k >= 1, got {k}")
        return float(np.clip(FORMS[self.form].curve(np.array([float(k)]), self.first, self.second)[0], 0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """A curve fitted to small k, against what was measured at larger ones: k -> coverage, both in 0..1."""

    fit: CoverageFit
    largest_fitted: int
    foretold: Mapping[int, float]
    measured: Mapping[int, float]

    @property
    def mean_error(self) -> float:
        """Mean absolute error on the held-out k, in coverage (0..1)."""
        return fmean(abs(self.foretold[k] - self.measured[k]) for k in self.measured)

    @property
    def last_error(self) -> float:
        """Foretold minus measured at the largest k: above 0, the curve promised too much."""
        last = max(self.measured)
        return self.foretold[last] - self.measured[last]


def fit_exponentiated_power_law(coverage: Mapping[int, float]) -> CoverageFit:
    """exp(a k^b), by least squares on coverage. `coverage`: k -> mean pass@k over problems, in 0..1. Raises ValueError
    for fewer than 3 values strictly between 0 and 1: the others say nothing of a and b."""
    return fit_coverage(coverage, "exponentiated power law")


def fit_log_linear(coverage: Mapping[int, float]) -> CoverageFit:
    """intercept + slope ln k, by least squares on coverage. As `fit_exponentiated_power_law`; it leaves 0..1 somewhere,
    so it describes a range and no limit."""
    return fit_coverage(coverage, "log-linear")


def fit_coverage(coverage: Mapping[int, float], form: str) -> CoverageFit:
    """The curve of a form (a key of `FORMS`). Raises ValueError as above, and for another form."""
    if form not in FORMS:
        raise ValueError(f"coverage: wanted a form of {', '.join(FORMS)}, got {form!r}")
    if wrong := {k: c for k, c in coverage.items() if k < 1 or not 0 <= c <= 1}:
        raise ValueError(f"coverage: wanted k >= 1 with coverages in 0..1, got {wrong}")
    if sum(0 < c < 1 for c in coverage.values()) < _FEWEST:
        raise ValueError(
            f"coverage: wanted at least {_FEWEST} values of k with a coverage between 0 and 1, got {dict(coverage)}"
        )
    ks, values = np.array(sorted(coverage), float), np.array([coverage[k] for k in sorted(coverage)])
    first, second = FORMS[form].solve(ks, values)
    errors = FORMS[form].curve(ks, first, second) - values
    spread = float(((values - values.mean()) ** 2).sum())
    return CoverageFit(
        form=form,
        first=first,
        second=second,
        num_points=len(ks),
        r_squared=1 - float((errors**2).sum()) / spread if spread else float(not errors.any()),
        rmse=math.sqrt(float((errors**2).mean())),
        largest_error=float(np.abs(errors).max()),
    )


def extrapolate(coverage: Mapping[int, float], form: str, *, largest_fitted: int) -> Extrapolation:
    """Fits k up to `largest_fitted` and foretells the rest. Raises ValueError where none is left, and as
    `fit_coverage`."""
    held_out = {k: c for k, c in coverage.items() if k > largest_fitted}
    if not held_out:
        raise ValueError(
            f"extrapolate: wanted a measured k above {largest_fitted}, got k up to {max(coverage, default=0)}"
        )
    fit = fit_coverage({k: c for k, c in coverage.items() if k <= largest_fitted}, form)
    return Extrapolation(
        fit=fit, largest_fitted=largest_fitted, foretold={k: fit.at(k) for k in held_out}, measured=held_out
    )


def foretell(
    by_problem: Mapping[int, Mapping[str, float]],
    form: str,
    ks: Sequence[int],
    *,
    num_resamples: int = 200,
    seed: int = 0,
) -> dict[int, Interval]:
    """The coverage that a curve gives at each of `ks`, with the percentile interval of fitting it again to resampled
    problems: over problems and seeds. It takes the form for granted, so it is too narrow where the form is wrong.

    `by_problem`: k -> problem -> pass@k, the same problems for each k. Raises ValueError for others, and as
    `fit_coverage`. Resamples to which no curve can be fitted are left out.
    """
    problems = [set(values) for values in by_problem.values()]
    if not problems or not problems[0] or any(names != problems[0] for names in problems):
        sizes = {k: len(values) for k, values in by_problem.items()}
        raise ValueError(f"foretell: wanted the same problems for each k, at least one, got {sizes} by k")
    names = sorted(problems[0])
    table = np.array([[by_problem[k][name] for name in names] for k in by_problem])  # (k, problem)
    fit = fit_coverage(dict(zip(by_problem, table.mean(axis=1).tolist(), strict=True)), form)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), num_resamples)
    drawn: dict[int, list[float]] = {k: [fit.at(k)] for k in ks}
    for means in np.clip(counts @ table.T / len(names), 0, 1).tolist():
        coverage = dict(zip(by_problem, means, strict=True))
        if sum(0 < c < 1 for c in coverage.values()) >= _FEWEST:
            again = fit_coverage(coverage, form)
            for k in ks:
                drawn[k].append(again.at(k))
    bounds = {k: np.quantile(values, [0.025, 0.975]).tolist() for k, values in drawn.items()}
    return {k: Interval(value=fit.at(k), low=low, high=high, over=Over.BOTH) for k, (low, high) in bounds.items()}


@dataclass(frozen=True, slots=True)
class _Form:
    """`curve(ks (n,), first, second)` -> (n,), and its parameters by least squares."""

    curve: Callable[[Array, float, float], Array]
    solve: Callable[[Array, Array], tuple[float, float]]


def _power_law(ks: Array, a: float, b: float) -> Array:
    return np.asarray(np.exp(a * ks**b))


def _line(ks: Array, intercept: float, slope: float) -> Array:
    return np.asarray(intercept + slope * np.log(ks))


def _solve_line(ks: Array, values: Array) -> tuple[float, float]:
    slope, intercept = np.polyfit(np.log(ks), values, 1)
    return float(intercept), float(slope)


def _solve_power_law(ks: Array, values: Array) -> tuple[float, float]:
    """In (ln -a, b), from the line that ln(-ln coverage) has in ln k."""
    inner, logs = (values > 0) & (values < 1), np.log(ks)
    slope, intercept = np.polyfit(logs[inner], np.log(-np.log(values[inner])), 1)

    def curve(theta: Array) -> Array:
        return np.asarray(np.exp(-np.exp(np.clip(theta[0] + theta[1] * logs, -700, 700))))

    fitted = least_squares(lambda theta: curve(theta) - values, (intercept, slope), method="lm", xtol=_CONVERGED).x
    return -math.exp(fitted[0]), float(fitted[1])


FORMS: Mapping[str, _Form] = {
    "exponentiated power law": _Form(_power_law, _solve_power_law),
    "log-linear": _Form(_line, _solve_line),
}
"""The curves that can be fitted. To add one: its function and its least squares."""
