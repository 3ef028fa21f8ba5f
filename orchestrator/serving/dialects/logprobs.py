"""Log-probabilities of what is shown. They are the policy's own, before temperature and filters."""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.core.alternatives import ReadToken
from orchestrator.core.confidence import LEAST_LOGPROB
from orchestrator.core.nouns import Step
from orchestrator.serving.orders import Choice


def tokens_of_steps(choice: Choice) -> list[list[ReadToken]]:
    """Of each step the tokens whose text is shown, and special ones: none of a stop text."""
    assert choice.read is not None
    tokens = iter(choice.read)
    return [_shown(step, tokens) for step in choice.trajectory.steps]


def _shown(step: Step, tokens: Iterator[ReadToken]) -> list[ReadToken]:
    """Takes the step's tokens, and gives back those that begin in its text."""
    own = [next(tokens) for _ in step.token_ids]
    shown, num_chars = [], 0
    for token in own:
        if num_chars < len(step.text) or (token.special and num_chars == len(step.text)):
            shown.append(token)
        num_chars += 0 if token.special else len(token.text)
    return shown


def chat_logprobs(tokens: Sequence[ReadToken], num_likeliest: int) -> dict[str, Any]:
    """Of a chat completion, without special tokens."""
    return {
        "content": [
            {
                **_named(token.text, token.logprob),
                "top_logprobs": [_named(text, logprob) for text, logprob in token.likeliest[:num_likeliest]],
            }
            for token in tokens
            if not token.special
        ]
    }


def _named(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": _told(logprob), "bytes": list(text.encode())}


def _told(logprob: float | None) -> float | None:
    """JSON knows no infinity."""
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


def completion_logprobs(tokens: Sequence[ReadToken]) -> dict[str, Any]:
    """Of a plain completion, special tokens among them. `top_logprobs` holds each token itself, too."""
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += 0 if token.special else len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_told(token.logprob) for token in tokens],
        "top_logprobs": [_likeliest(token) for token in tokens],
        "text_offset": offsets,
    }


def _likeliest(token: ReadToken) -> dict[str, float | None] | None:
    """By text, each the likeliest of that text; None where nothing comes before the token."""
    if token.logprob is None:
        return None
    by_text: dict[str, float | None] = {}
    for text, logprob in token.likeliest:
        by_text.setdefault(text, _told(logprob))
    return by_text
