"""What a verifier that is open tells beside its verdicts, whatever its kind."""

from typing import Protocol

from orchestrator.core.protocols import Verifier


class OpenVerifier(Verifier, Protocol):
    @property
    def num_ready(self) -> int:
        """Replicas or engines that can judge now, the fewest where it needs several kinds; 0: it can't judge."""
        ...

    async def stats(self) -> list[dict[str, int]]:
        """Of each replica that is up, or else of the whole: `tokens_read` since its start. Raises ReplicaError."""
        ...
