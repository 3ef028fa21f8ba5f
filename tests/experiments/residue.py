"""A verifier for tests of training: a score from the token ids alone, so that any policy has something to learn."""

from collections.abc import Sequence

from orchestrator.core.nouns import Score
from verifiers.contract import Answer, HostSettings, Read, Run, StateBlob, Unreadable, VerifierInfo

HOST = "tests.experiments.residue:ResidueHost"


def residue(token_ids: Sequence[int]) -> float | None:
    """None, which stands for unreadable, where the last id is divisible by 9."""
    return None if token_ids[-1] % 9 == 0 else sum(token_ids) % 11 / 10


class ResidueHost:
    """Remembers which states it holds."""

    def __init__(self, name: str, fingerprint: str = "") -> None:
        self.info = VerifierInfo(
            name=name, model_hash="residue", tokenizer_fingerprint=fingerprint, state_bytes=4, flops_per_token=1.0
        )
        self.runs: list[Run] = []
        self.held: set[str] = set()

    @classmethod
    def load(cls, settings: HostSettings) -> "ResidueHost":
        return cls(settings.name)

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        self.runs += runs
        self.held |= {run.key for run in runs}
        return [self._answer(run) for run in runs]

    def _answer(self, run: Run) -> Answer:
        score = residue(run.token_ids)
        if score is None:
            return Unreadable(reason="the last id is divisible by 9")
        return Read(scores=tuple(Score(mean=score) for _ in run.boundaries), tokens_read=len(run.token_ids), flops=1.0)

    def release(self, keys: Sequence[str]) -> None:
        self.held -= set(keys)

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        return [None for _ in keys]

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        pass
