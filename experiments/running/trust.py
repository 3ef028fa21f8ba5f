"""The trust gate: does this verifier choose better than chance and than a majority, where answers are known?

Where it does not, searches of the run fall back to a vote. A score that ranks samples at random costs accuracy and
compute; a majority costs neither (negative results of this kind are common: see crucible-ttc).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from experiments.analysis.diagnostics import within_problem_auroc
from experiments.analysis.intervals import Interval, Over, bootstrap_mean
from experiments.analysis.metrics import SampleSet, prm_at_k, vote_at_k
from experiments.analysis.paired import paired_difference
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the calibration set says. `auroc`: P(a right sample of a problem outscores one with a wrong answer)."""

    selection: Selection
    auroc: Interval
    over_majority: Interval  # accuracy of the verifier's favourite minus that of the majority, paired
    num_problems: int
    n: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def __str__(self) -> str:
        return (
            f"trust gate: within-problem AUROC {_shown(self.auroc, 1)}, best-of-{self.n} minus majority "
            f"{_shown(self.over_majority, 100)} points on {self.num_problems} problems: "
            f"searches choose by {self.selection.value}"
        )


def judge(pools: Sequence[SampleSet]) -> Trust:
    """The verifier's favourite is chosen where it beats chance and majority for sure; else a vote weighted by it where
    it beats chance for sure; else a plain majority. For sure: the 95% interval over problems lies above.
    """
    if not pools:
        raise UserError("trust: not one sample of trust.data could be graded, so the verifier can't be tried on it")
    n = min(len(pool) for pool in pools)
    by_problem = [value for pool in pools if (value := within_problem_auroc(pool)) is not None]
    unsure = Interval(value=0.5, low=0.0, high=1.0, over=Over.BOTH)
    auroc = bootstrap_mean(by_problem) if by_problem else unsure
    by_score = {str(i): prm_at_k(pool, n) for i, pool in enumerate(pools)}
    by_majority = {str(i): vote_at_k(pool, [n], weighted=False)[n] for i, pool in enumerate(pools)}
    over_majority = paired_difference(by_score, by_majority)
    if auroc.low <= 0.5:
        selection = Selection.MAJORITY
    elif over_majority.low <= 0:
        selection = Selection.WEIGHTED
    else:
        selection = Selection.SCORE
    return Trust(selection=selection, auroc=auroc, over_majority=over_majority, num_problems=len(pools), n=n)


def _shown(interval: Interval, scale: float) -> str:
    return f"{scale * interval.value:.3g} [{scale * interval.low:.3g}, {scale * interval.high:.3g}]"
