"""What the policy writes past the step boundaries at which trajectories were handed out."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.nouns import Trajectory
from orchestrator.session.sequences import LiveSequence, SequencesInFlight
from orchestrator.session.tracks import Track

_FIRST = 4  # continuations that are decided before it is judged whether speculation pays


@dataclass(slots=True)
class _Ahead:
    sequence: LiveSequence
    num_tokens: int  # of the trajectory: it says no more than that when it is continued


class Speculation:
    """Owner of the sequences that run ahead of their trajectories."""

    def __init__(self, in_flight: SequencesInFlight, depth: int) -> None:
        """`depth`: the most steps that a sequence may run ahead; 0: no speculation."""
        self._in_flight = in_flight
        self._depth = depth
        self._ahead: dict[tuple[int, ...], _Ahead] = {}  # by the trajectory's path
        self._taken, self._dropped = 0, 0

    @property
    def depth(self) -> int:
        """How far the next sequences may run ahead: not at all once less than half is kept. Where few children survive,
        as in a beam with several children each, most of it would be thrown away."""
        pays = self._taken >= self._dropped or self._taken + self._dropped < _FIRST
        return self._depth if pays else 0

    def keep(self, track: Track, sequence: LiveSequence) -> None:
        """The sequence runs on, while the track is handed out as far as it goes."""
        self._ahead[track.path] = _Ahead(sequence, track.num_tokens)

    def take(self, trajectory: Trajectory) -> LiveSequence | None:
        """The sequence that continues this trajectory, if one does."""
        ahead = self._ahead.pop(trajectory.path, None)
        if ahead is None:
            return None
        if ahead.num_tokens != trajectory.num_tokens:
            self._in_flight.give_up([ahead.sequence])
            return None
        self._taken += 1
        return ahead.sequence

    def drop(self, trajectories: Sequence[Trajectory | Track]) -> None:
        """Nobody will continue these."""
        found = [ahead for t in trajectories if (ahead := self._ahead.pop(t.path, None)) is not None]
        self._dropped += len(found)
        self._in_flight.give_up([ahead.sequence for ahead in found])
