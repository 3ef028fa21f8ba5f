"""How sure the policy was of a whole sample, from what its steps hold (`orchestrator.core.confidence`). Pure."""

import math
from collections.abc import Sequence
from enum import StrEnum

from orchestrator.core.nouns import Step

TOP_K = 20  # likeliest tokens at each position: DeepConf's k, and the most that servers tell if nobody set another


class Certainty(StrEnum):
    confidence = "confidence"  # DeepConf's, arXiv 2508.15260
    entropy = "entropy"  # exp of the negated entropy: 1 over as many equally likely tokens as there seem to be
    self_certainty = "self_certainty"  # arXiv 2502.18581


def certainty(steps: Sequence[Step], by: Certainty) -> float | None:
    """The mean over the sampled tokens, high where the policy was sure; None where nothing is known of them."""
    known = [(step.confidence, len(step.confidence.tokens)) for step in steps if step.confidence is not None]
    total = sum(tokens for _, tokens in known)
    if not total:
        return None
    match by:
        case Certainty.confidence:
            return math.fsum(one.mean * tokens for one, tokens in known) / total
        case Certainty.entropy:
            return math.exp(-math.fsum(one.entropy * tokens for one, tokens in known) / total)
        case Certainty.self_certainty:
            return math.fsum(one.self_certainty * tokens for one, tokens in known) / total


def token_confidences(steps: Sequence[Step]) -> list[float]:
    """Of the sampled tokens, in order."""
    return [token for step in steps if step.confidence is not None for token in step.confidence.tokens]


def mean_logprob(steps: Sequence[Step]) -> float | None:
    """The mean of the log-probabilities that the sampled tokens had; None where none is known."""
    known = [(step.logprob, len(step.token_ids)) for step in steps if step.logprob is not None]
    total = sum(tokens for _, tokens in known)
    return math.fsum(logprob for logprob, _ in known) / total if total else None


def mean_probability(steps: Sequence[Step]) -> float | None:
    """The geometric mean of the probabilities that the sampled tokens had; None where none is known."""
    mean = mean_logprob(steps)
    return None if mean is None else math.exp(mean)
