"""What a written verdict counts: itself, or each verdict by the probability that it had of being written there.

The second is p(Yes) of GenRM (arXiv 2408.15240) and the expected rating of G-Eval (arXiv 2303.16634). It is taken of
the likeliest tokens that a writer tells, and shared out among those that begin a verdict.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from orchestrator.core.alternatives import Alternatives


class Abstention(ValueError):
    """A chain can't be read: what was got and what was wanted."""


class ScoreBy(StrEnum):
    """What of a verdict is its value."""

    VERDICT = "verdict"  # what was written
    PROBABILITY = "probability"  # the expectation over what could have been written there


class Weigh(Protocol):
    def __call__(self, verdict: str, at: int) -> Mapping[str, float]:
        """Weights of the verdicts that could stand where `verdict` does, at that character of a chain; their sum is 1.
        Raises Abstention."""
        ...


def as_written(verdict: str, at: int) -> Mapping[str, float]:
    """All the weight for what was written."""
    return {verdict: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ByProbability:
    """Weights by the probabilities that the writer gave to the first token of each verdict."""

    alternatives: Sequence[Alternatives]  # of the chain
    words: Sequence[str]  # the verdicts that there are

    def __call__(self, verdict: str, at: int) -> Mapping[str, float]:
        token = next((token for token in self.alternatives if token.at <= at < token.at + len(token.text)), None)
        if token is None:
            raise Abstention(f"the writer told no log-probabilities of the verdict {verdict!r}, wanted them")
        before = token.text[: at - token.at]
        weights: Counter[str] = Counter()
        for text, logprob in token.logprobs:
            word = self._begun(text[len(before) :]) if text.startswith(before) else None
            if word is not None:
                weights[word] += math.exp(logprob)  # type: ignore[assignment]
        total = sum(weights.values())
        if not total > 0:
            raise Abstention(f"no verdict begins with one of the likeliest tokens where {verdict!r} stands")
        return {word: weight / total for word, weight in weights.items()}

    def _begun(self, text: str) -> str | None:
        """The verdict that a token writes or begins to write."""
        for word in self.words:
            ends = text.startswith(word) and not text[len(word) : len(word) + 1].isalnum()
            if text and (ends or word.startswith(text)):
                return word
        return None
