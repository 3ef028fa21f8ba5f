"""The smallest difference that a paired comparison could have shown. Pure: numbers in, numbers out.

Without it, "no difference was shown" says nothing: it may mean that there is none, or that there were too few problems.
"""

import math
from statistics import NormalDist

from experiments.analysis.intervals import Z_95
from experiments.analysis.paired import PairedComparison

POWER = 0.8
_ALPHA = 0.05


def smallest_detectable(comparison: PairedComparison, *, num_comparisons: int = 1) -> float | None:
    """The difference in accuracy (0..1) that 80% of runs with such problems and such a spread would show.

    It takes the standard error of the comparison's interval and the strictest of Holm's thresholds, 0.05 /
    `num_comparisons` (Miller, arXiv 2411.00640, section 5). It is never below what the exact test wants at the least: 6
    problems that differ, all to one side, for p < 0.05. None: no difference could have been shown.
    """
    if num_comparisons < 1:
        raise ValueError(f"smallest_detectable: wanted at least 1 comparison, got {num_comparisons}")
    alpha = _ALPHA / num_comparisons
    normal = NormalDist()
    standard_error = (comparison.difference.high - comparison.difference.low) / 2 / Z_95
    by_spread = (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER)) * standard_error
    fewest = math.floor(math.log2(2 / alpha)) + 1  # the first for which 2 / 2**fewest is below alpha
    found = max(by_spread, fewest / comparison.num_problems)
    return found if found <= 1 else None
