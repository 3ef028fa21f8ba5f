"""Scores of a text while it is being written, every so many tokens, at constant memory and constant cost per token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.core.nouns import Score
from verifiers.streaming_prm import StreamingPRM, beta_std

_MOST_TOKENS = 1024  # read at a time, so that memory does not grow with what is pushed


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreAt:
    """A score and where it was read."""

    num_tokens: int  # since the prompt
    score: Score


class Monitor:
    """Owns the state of one text. Its scores are those of the whole text read at once, however it is pushed."""

    def __init__(self, prm: StreamingPRM, *, every_tokens: int = 1, prompt_ids: Sequence[int] = ()) -> None:
        """`prm` is shared and in evaluation mode. Raises ValueError as `push` does."""
        if every_tokens < 1:
            raise ValueError(f"monitor: every_tokens must be >= 1, got {every_tokens}")
        self._prm, self._every_tokens = prm, every_tokens
        self._state: Tensor = prm.initial_state(1)
        self._last: Score | None = None
        self._num_tokens = -len(prompt_ids)
        self._read(prompt_ids)

    @property
    def score(self) -> Score | None:
        """After the last token, wherever that is: at the end of a step, of that step. None before the first."""
        return self._last

    def push(self, token_ids: Sequence[int]) -> list[ScoreAt]:
        """Reads the next tokens; the scores of each `every_tokens`-th since the prompt among them.

        Raises ValueError for a token outside the vocabulary, before any is read, and for a score that is not finite.
        """
        return self._read(token_ids)

    @torch.inference_mode()
    def _read(self, token_ids: Sequence[int]) -> list[ScoreAt]:
        vocab_size = self._prm.config.vocab_size
        if (wrong := next((token for token in token_ids if not 0 <= token < vocab_size), None)) is not None:
            raise ValueError(f"monitor: token id {wrong} is outside the verifier's vocabulary of {vocab_size}")
        scores = []
        for start in range(0, len(token_ids), _MOST_TOKENS):
            ids = torch.tensor([token_ids[start : start + _MOST_TOKENS]], device=self._state.device)
            output = self._prm(ids, torch.tensor([ids.shape[1]], device=ids.device), self._state)
            mean = output.mean_logit[0].float().sigmoid()
            std = beta_std(mean, output.concentration[0].float())
            if not (mean.isfinite().all() and std.isfinite().all()):
                raise ValueError("monitor: the score is not a finite number")
            self._state = output.state
            for m, s in zip(mean.tolist(), std.tolist(), strict=True):
                self._num_tokens += 1
                self._last = Score(mean=m, std=s)
                if self._num_tokens > 0 and self._num_tokens % self._every_tokens == 0:
                    scores.append(ScoreAt(num_tokens=self._num_tokens, score=self._last))
        return scores
