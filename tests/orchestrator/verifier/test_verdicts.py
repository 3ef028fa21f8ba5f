import math

import pytest

from orchestrator.core.nouns import Score, StateHandle
from orchestrator.core.protocols import ScoreRequest
from orchestrator.verifier.verdicts import judged

CARRY = StateHandle(replica=0, epoch=0, key="state", num_tokens=2)
READING = ScoreRequest(token_ids=(1, 2), boundaries=(1, 2))


def test_scores_in_the_unit_interval_are_a_verdict() -> None:
    scores = (Score(mean=0.0), Score(mean=1.0 + 1e-12, std=0.5))
    verdict = judged(READING, scores, handle=CARRY, verifier_tokens=2, reingested_tokens=1, flops=3.0)
    assert (verdict.scores, verdict.handle, verdict.unjudged) == (scores, CARRY, None)
    assert (verdict.verifier_tokens, verdict.reingested_tokens, verdict.flops) == (2, 1, 3.0)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([0.5], "gave 1 scores, wanted 2"),
        ([0.5, 0.5, 0.5], "gave 3 scores, wanted 2"),
        ([0.5, math.nan], "not a finite number (mean nan"),
        ([math.inf, 0.5], "not a finite number (mean inf"),
        ([0.5, 1.01], r"outside [0, 1] (mean 1.01"),
        ([-0.01, 0.5], r"outside [0, 1] (mean -0.01"),
        ([None, 0.5], "not a number (mean None"),
    ],
)
def test_other_scores_are_none_and_what_was_read_is_counted(scores: list[float], reason: str) -> None:
    verdict = judged(READING, [Score(mean=mean) for mean in scores], handle=CARRY, verifier_tokens=2, flops=3.0)
    assert verdict.unjudged is not None and reason in verdict.unjudged
    assert (verdict.scores, verdict.handle, verdict.verifier_tokens, verdict.flops) == ((), None, 2, 3.0)


def test_a_deviation_is_held_to_the_same() -> None:
    verdict = judged(READING, [Score(mean=0.5, std=math.nan)] * 2, handle=None, verifier_tokens=2)
    assert verdict.unjudged is not None and "std nan" in verdict.unjudged


def test_the_reason_of_the_caller_comes_first() -> None:
    assert judged(READING, (), handle=None, verifier_tokens=0, unjudged="too long").unjudged == "too long"
