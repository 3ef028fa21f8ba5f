"""The streaming PRM, which fails where it is ordered to: an order is a file, and the replica that takes it obeys."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

from orchestrator.core.nouns import Score
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.contract import Answer, HostSettings, Read, Run
from verifiers.streaming import StreamingHost

RAISE, HANG, NAN = "raise", "hang", "nan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """In the place of the verifier's options."""

    folder: Path


class ObedientHost(StreamingHost):
    """A `VerifierHost`."""

    orders: Orders | None = None  # until it has loaded

    @classmethod
    def load(cls, settings: HostSettings) -> "ObedientHost":
        host = super().load(settings)
        assert isinstance(host, cls)
        host.orders = settings.options
        return host

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        asked = next((index for index, run in enumerate(runs) if run.boundaries), None)
        if asked is not None and self._ordered(RAISE):
            raise RuntimeError("the verifier was ordered to raise")
        if asked is not None and self._ordered(HANG):
            threading.Event().wait()
        answers: list[Answer] = super().read(runs)
        if asked is not None and isinstance(answer := answers[asked], Read) and self._ordered(NAN):
            answers[asked] = replace(answer, scores=(Score(mean=nan),) * len(answer.scores))
        return answers

    def _ordered(self, name: str) -> bool:
        if self.orders is None:
            return False
        taken = _taken(self.orders.folder, name)
        try:
            os.rename(self.orders.folder / name, taken)  # by one replica alone
        except FileNotFoundError:
            return False
        taken.write_text(str(os.getpid()))
        return True


def obedient(verifier: ResolvedVerifier, folder: Path) -> ResolvedVerifier:
    """A streaming PRM, whose replicas look for orders in the folder."""
    entry = replace(verifier.entry, host=f"{ObedientHost.__module__}:{ObedientHost.__name__}")
    return replace(verifier, entry=entry, options=Orders(folder=folder))


def order(folder: Path, name: str) -> None:
    _taken(folder, name).unlink(missing_ok=True)
    (folder / name).touch()


def obeyed(folder: Path, name: str) -> int | None:
    """The process that took the order; None: nobody has."""
    try:
        return int(_taken(folder, name).read_text())
    except (FileNotFoundError, ValueError):
        return None


def withdraw(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)


def _taken(folder: Path, name: str) -> Path:
    return folder / f"{name}.taken"
