"""What faults cost, by kind."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from experiments.analysis.tables import Cells


@dataclass(slots=True, kw_only=True)
class Fault:
    """One that struck, and what came of it."""

    stage: str
    kind: str
    began: float  # seconds since 1970
    recovery_s: float | None = None  # None: it did not
    lost: list[str] = field(default_factory=list)  # rows
    wrong: list[str] = field(default_factory=list)  # scores and tokens
    leaks: list[str] = field(default_factory=list)
    unjudged: int = 0  # candidates whose verdict was refused, with the reason
    ended_run: int = 0  # times that the run had to be resumed
    policy_tokens: int = 0  # written once more
    verifier_tokens: int = 0  # read once more

    @property
    def survived(self) -> bool:
        return self.recovery_s is not None and not (self.lost or self.wrong or self.leaks)


def table(faults: Sequence[Fault]) -> Cells:
    kinds = dict.fromkeys((fault.stage, fault.kind) for fault in faults)
    rows = [
        _cells(f"{kind} ({stage})", [f for f in faults if (f.stage, f.kind) == (stage, kind)]) for stage, kind in kinds
    ]
    return Cells(
        title="Faults",
        headers=(
            "fault",
            "struck",
            "lost rows",
            "wrong scores",
            "leaks",
            "unjudged",
            "resumed",
            "recovery s",
            "policy tokens again",
            "verifier tokens again",
        ),
        rows=[*rows, _cells("all", faults)],
    )


def _cells(name: str, faults: Sequence[Fault]) -> list[str]:
    seconds = [fault.recovery_s for fault in faults if fault.recovery_s is not None]
    shown = f"{median(seconds):.1f} [{min(seconds):.1f}, {max(seconds):.1f}]" if seconds else ""
    if missing := len(faults) - len(seconds):
        shown += f", {missing} never"
    return [
        name,
        str(len(faults)),
        str(sum(len(fault.lost) for fault in faults)),
        str(sum(len(fault.wrong) for fault in faults)),
        str(sum(len(fault.leaks) for fault in faults)),
        str(sum(fault.unjudged for fault in faults)),
        str(sum(fault.ended_run for fault in faults)),
        shown,
        f"{sum(fault.policy_tokens for fault in faults):,}",
        f"{sum(fault.verifier_tokens for fault in faults):,}",
    ]
