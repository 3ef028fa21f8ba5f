"""What a policy that is open tells beside what it writes, wherever its engines are."""

from typing import Protocol

from orchestrator.core.protocols import Policy


class OpenPolicy(Policy, Protocol):
    fingerprint: str  # of the vocabulary

    @property
    def model(self) -> str:
        """As in the configuration; absolute where it is a folder."""
        ...

    @property
    def num_ready(self) -> int:
        """Replicas that serve now."""
        ...

    async def stats(self) -> list[dict[str, int]]:
        """Of each serving replica: `running` requests, `sampled_tokens`, and what its engine counted since its start,
        `generated_tokens` and `preemptions` among it. Raises ReplicaError."""
        ...
