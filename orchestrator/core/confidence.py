"""How sure a policy is of its tokens, by the log-probabilities of the k likeliest at each position. Pure.

An engine reduces these k numbers to three where it samples, so that messages and rows stay small. Log-probabilities are
the model's own, before the sampling's temperature and filters, as vLLM gives them by default.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LEAST_LOGPROB = -9999.0  # what servers write for minus infinity


class TokenConfidence(NamedTuple):
    """Of the position at which a token was sampled, whichever token that was."""

    confidence: float  # mean of the k log-probabilities, negated (DeepConf, arXiv 2508.15260): high is sure
    entropy: float  # in nats, of the k likeliest with their probabilities scaled to 1: low is sure
    self_certainty: float  # see `token_confidence`: high is sure


def token_confidence(top_logprobs: Sequence[float]) -> TokenConfidence:
    """From the log-probabilities of the k likeliest tokens, k >= 1.

    Self-certainty (Kang et al., arXiv 2502.18581) is the divergence of the model's distribution from the uniform one,
    KL(uniform || p), over the whole vocabulary. This is its approximation over the k likeliest tokens, with their
    probabilities scaled to 1. It differs from `confidence` by a constant and the log of the mass of these k.
    """
    logprobs = [max(logprob, LEAST_LOGPROB) for logprob in top_logprobs]
    k, highest = len(logprobs), max(logprobs)
    confidence = -sum(logprobs) / k
    shares = [math.exp(logprob - highest) for logprob in logprobs]
    total = sum(shares)
    log_mass = highest + math.log(total)
    entropy = log_mass - sum(share * logprob for share, logprob in zip(shares, logprobs, strict=True)) / total
    return TokenConfidence(confidence, entropy, confidence + log_mass - math.log(k))


class StepConfidence(NamedTuple):
    """Of the tokens of a step that the policy sampled. Chat APIs may tell none for the token that ends a reply."""

    tokens: tuple[float, ...]  # the confidence of each
    entropy: float  # their mean
    self_certainty: float  # their mean

    @property
    def mean(self) -> float:
        return sum(self.tokens) / len(self.tokens)


def step_confidence(tokens: Sequence[TokenConfidence]) -> StepConfidence | None:
    """None for no token."""
    if not tokens:
        return None
    confidences, entropies, self_certainties = zip(*tokens, strict=True)
    return StepConfidence(confidences, sum(entropies) / len(tokens), sum(self_certainties) / len(tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceFloor:
    """Where a sequence is stopped: at a token that ends a group of `group_tokens` in a row with a mean confidence below
    `least`."""

    group_tokens: int
    least: float


class GroupMeans:
    """Means of each `size` numbers in a row, as they come. What stops a sequence and what ranks it afterwards add up
    alike."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._group: deque[float] = deque()
        self._total = 0.0

    def push(self, number: float) -> float | None:
        """The mean of the last `size`; None before there are so many."""
        self._group.append(number)
        self._total += number
        if len(self._group) > self._size:
            self._total -= self._group.popleft()
        return self._total / self._size if len(self._group) == self._size else None


def group_means(numbers: Iterable[float], size: int) -> list[float]:
    """The means of all runs of `size` numbers, in order; of all numbers where there are fewer; nothing of nothing."""
    groups, seen = GroupMeans(size), list(numbers)
    means = [mean for number in seen if (mean := groups.push(number)) is not None]
    return means or ([sum(seen) / len(seen)] if seen else [])
