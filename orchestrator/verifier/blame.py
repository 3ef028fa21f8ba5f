"""Whose fault it is that a call failed: the replica's, or that of one reading in it.

Readings of a call that failed are suspects and are read one by one. One that has cost two replicas, the second while
it was read alone, is condemned; so is one on which the verifier raises when it is read alone, twice. Where the verifier
raises on two readings in a row, with no answer between them, the replica may be what is broken: it is lost, and what
the next one says counts.
"""

from collections.abc import Sequence
from enum import Enum, auto

from orchestrator.verifier.batch import Job


class Fault(Enum):
    """What follows from a failed call."""

    OPEN = auto()  # its readings are read again, one by one
    READING = auto()  # its only reading can't be judged
    REPLICA = auto()  # the replica is given up, and its reading is read again


class Blame:
    """Keeps what is known of failures. Owner of the restarts that are owed to replicas."""

    def __init__(self, num_replicas: int) -> None:
        self._raised_on: list[set[str]] = [set() for _ in range(num_replicas)]  # keys, since the replica's last answer
        self._proven = False  # whether the verifier answered since a reading was condemned
        self._owed: list[tuple[int, int]] = []  # replicas (place, epoch) that readings cost which were condemned

    def answered(self, replica: int) -> list[tuple[int, int]]:
        """A replica answered a reading. Returns the replicas that get a restart back: what they were lost to was the
        reading's fault, since others are answered."""
        self._proven = True
        self._raised_on[replica].clear()
        owed, self._owed = self._owed, []
        return owed

    def lost(self, replica: int, epoch: int, jobs: Sequence[Job]) -> Fault:
        """A replica was lost while it had these readings."""
        self._raised_on[replica].clear()
        for job in jobs:
            job.lost.append((replica, epoch))
        if jobs and jobs[0].suspect and len(jobs[0].lost) > 1:
            self._owed += jobs[0].lost
            return Fault.READING
        for job in jobs:
            job.suspect = True
        return Fault.OPEN

    def raised(self, replica: int, epoch: int, jobs: Sequence[Job]) -> Fault:
        """The verifier raised an exception on these readings."""
        first = jobs[0]
        if not first.suspect:
            for job in jobs:
                job.suspect = True
            return Fault.OPEN
        first.handle = None  # the next time from its tokens: the state may be what is wrong
        first.raised.append((replica, epoch))
        self._raised_on[replica].add(first.key)
        healthy = len(self._raised_on[replica]) == 1
        if len(first.raised) > 1 and (healthy or len(set(first.raised)) > 1):
            self._owed += first.lost
            return Fault.READING
        return Fault.OPEN if healthy else Fault.REPLICA

    def condemned(self) -> list[tuple[int, int]]:
        """A reading was condemned. Returns the replicas that get a restart back at once: those it cost, when the
        verifier answered others before. Else they get it with the next answer, so that a verifier which fails on
        everything uses its restarts up."""
        if not self._proven:
            return []
        self._proven = False
        owed, self._owed = self._owed, []
        return owed
