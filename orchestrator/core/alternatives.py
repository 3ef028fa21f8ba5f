"""What a policy could have written instead of a token."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """A token that was written, and the likeliest tokens in its place, itself among them."""

    at: int  # characters before it, in the text that it belongs to
    text: str  # its own
    logprobs: tuple[tuple[str, float], ...]  # (text, natural log of the probability at temperature 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadToken:
    """A token that the policy has read back, and what it thinks of it and of the likeliest tokens in its place."""

    text: str  # what it adds to the text; a special token's own name
    special: bool = False  # texts leave it out
    logprob: float | None = None  # natural log, at temperature 1; None: the first of all, which nothing comes before
    likeliest: tuple[tuple[str, float], ...] = ()  # (text, log-probability), the likeliest first


def may_hold(text: str, words: Sequence[str]) -> bool:
    """Whether one of the words is in a token's text, or may begin there."""
    return any(word in text or any(text.endswith(word[:n]) for n in range(1, len(word))) for word in words)
