"""A child while it is being written and scored."""

from dataclasses import dataclass

from orchestrator.core.account import Hold
from orchestrator.core.nouns import StateHandle, Trajectory
from orchestrator.session.sequences import LiveSequence


@dataclass(slots=True)
class Track:
    """The child's value so far, and where the rest comes from."""

    trajectory: Trajectory
    shared_handle: StateHandle | None  # the prefix's state, which siblings fork from too
    sequence: LiveSequence | None = None  # None: nothing is to be written
    hold: Hold | None = None  # what may be spent on it
    written: bool = False
