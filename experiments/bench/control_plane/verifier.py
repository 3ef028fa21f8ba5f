"""A verifier without a model: it scores tokens by a checksum, after a drawn time, and carries the checksum as state."""

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.core.config import VerifierConfig
from orchestrator.core.nouns import Score
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers import VerifierEntry
from verifiers.contract import LAYOUT_VERSION, Answer, HostSettings, Missing, Read, Run, StateBlob, VerifierInfo

_HOST = "experiments.bench.control_plane.verifier:NullHost"
_PRIME = 65_521  # the checksum stays below it, and a float32 holds it exactly


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How fast a null verifier reads. Times are drawn between half and one and a half of these."""

    call_s: float = 0.004  # of a micro-batch, whatever is in it
    token_s: float = 2e-6

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} must be >= 0, got {value}")


def null_verifier(reading: Reading, **settings: Any) -> ResolvedVerifier:
    """`settings` are those of `VerifierConfig`, such as `replicas`."""
    return ResolvedVerifier(
        config=VerifierConfig(name="null", options=asdict(reading), **settings),
        entry=VerifierEntry(host=_HOST, options=Reading),
        options=reading,
    )


class NullHost:
    """Implements `VerifierHost`. Owner of a checksum for each state."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.info = VerifierInfo(
            name=name, model_hash="null", tokenizer_fingerprint="", state_bytes=4, flops_per_token=0.0
        )
        self._reading = reading
        self._states: dict[str, tuple[int, int]] = {}  # (checksum, tokens)
        self._pace = random.Random(0)

    @classmethod
    def load(cls, settings: HostSettings) -> "NullHost":
        return cls(settings.name, settings.options)

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        num_tokens = sum(len(run.token_ids) for run in runs)
        time.sleep(self._pace.uniform(0.5, 1.5) * (self._reading.call_s + num_tokens * self._reading.token_s))
        return [self._read(run) for run in runs]

    def _read(self, run: Run) -> Answer:
        if run.parent is not None and run.parent not in self._states:
            return Missing()
        checksum, before = self._states[run.parent] if run.parent is not None else (0, 0)
        scores, ends = [], set(run.boundaries)
        for count, token in enumerate(run.token_ids, start=1):
            checksum = (257 * checksum + token + 1) % _PRIME
            if count in ends:
                scores.append(Score(mean=checksum / _PRIME))
        self._states[run.key] = checksum, before + len(run.token_ids)
        if run.parent is not None and not run.keep_parent:
            self._states.pop(run.parent, None)
        return Read(scores=tuple(scores), tokens_read=len(run.token_ids), flops=0.0)

    def release(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._states.pop(key, None)

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        return [self._blob(*self._states[key]) if key in self._states else None for key in keys]

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        for key, blob in zip(keys, blobs, strict=True):
            if blob is not None:
                self._states[key] = int(blob.data[0]), blob.num_tokens

    def _blob(self, checksum: int, num_tokens: int) -> StateBlob:
        return StateBlob(
            layout_version=LAYOUT_VERSION,
            model_hash=self.info.model_hash,
            num_tokens=num_tokens,
            data=np.array([checksum], dtype=np.float32),
        )
