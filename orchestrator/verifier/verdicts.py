"""Makes verdicts. The one place where scores are looked at before a search may use them."""

from collections.abc import Sequence
from math import isfinite
from numbers import Real

from orchestrator.core.nouns import Score, StateHandle
from orchestrator.core.protocols import ScoreRequest, Verdict

_ROUNDING = 1e-6  # a mean of ones may come out a little above one


def judged(
    reading: ScoreRequest,
    scores: Sequence[Score],
    *,
    handle: StateHandle | None,
    verifier_tokens: int,
    reingested_tokens: int = 0,
    flops: float = 0.0,
    unjudged: str | None = None,
) -> Verdict:
    """The verdict on a reading, or `unjudged` with the reason: what the caller gives, or that the scores are not one
    for each boundary, or are not finite numbers in [0, 1]. Then it has no handle, and the caller frees that state."""
    unjudged = unjudged or wrong_scores(scores, len(reading.boundaries))
    return Verdict(
        scores=tuple(scores) if unjudged is None else (),
        handle=handle if unjudged is None else None,
        verifier_tokens=verifier_tokens,
        reingested_tokens=reingested_tokens,
        flops=flops,
        unjudged=unjudged,
    )


def wrong_scores(scores: Sequence[Score], wanted: int) -> str | None:
    """Why these can't be the scores; None when they can."""
    if len(scores) != wanted:
        return f"the verifier gave {len(scores)} scores, wanted {wanted}"
    for score in scores:
        for value in (score.mean, score.std):
            if not isinstance(value, float | Real):  # a float is known at once
                return f"the score is not a number (mean {score.mean!r}, std {score.std!r})"
            if not isfinite(value):
                return f"the score is not a finite number (mean {score.mean}, std {score.std})"
            if not -_ROUNDING <= value <= 1 + _ROUNDING:
                return f"the score is outside [0, 1] (mean {score.mean}, std {score.std})"
    return None
