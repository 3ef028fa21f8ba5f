"""What the user's environment says to the endpoint, whose processes Ray starts with another environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.serving.keys import VARIABLE

_THREADS = "OMP_NUM_THREADS"  # Ray sets it in its workers; the policy pool reads what the user set
_TRACING = "OTEL_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Taken where the command runs, applied in the endpoint's process."""

    threads: str | None = None
    keys: str | None = field(default=None, repr=False)
    tracing: Mapping[str, str] = field(default_factory=dict)  # OpenTelemetry's standard variables

    @classmethod
    def here(cls) -> "Surroundings":
        tracing = {name: value for name, value in os.environ.items() if name.startswith(_TRACING)}
        return cls(threads=os.environ.get(_THREADS), keys=os.environ.get(VARIABLE), tracing=tracing)

    def apply(self) -> None:
        if self.threads is None:
            os.environ.pop(_THREADS, None)
