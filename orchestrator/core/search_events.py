"""What happens in a search, as values that an observer is told while it runs. `path` is `Trajectory.path`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from orchestrator.core.values import numerous


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class StepWritten:
    """A step of a trajectory. One that is told again, by path and index, stands in place of the first."""

    type: ClassVar[str] = "step"
    at: float  # seconds since the search began, as in all of these
    path: tuple[int, ...]
    index: int  # of the step in its trajectory, that of its prefixes included
    parent: tuple[int, ...] | None  # the trajectory that this one goes on from; None: the prompt itself
    text: str
    tokens: int
    finished: bool  # no step follows


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class StepScored:
    """A verdict after a step."""

    type: ClassVar[str] = "score"
    at: float
    path: tuple[int, ...]
    index: int
    score: float
    uncertainty: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """Children of a trajectory are begun."""

    type: ClassVar[str] = "fork"
    at: float
    path: tuple[int, ...]
    children: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A trajectory was given up before it ended, and nothing goes on from it."""

    type: ClassVar[str] = "prune"
    at: float
    path: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """For one answer, or what is equal to it."""

    answer: str
    weight: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Voted:
    """A vote as it stands, the answer with the most weight first."""

    type: ClassVar[str] = "vote"
    at: float
    answers: tuple[Votes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWritten:
    """More text of an answer that is known early: of all that is told the texts are the answer's, in order."""

    type: ClassVar[str] = "text"
    at: float
    path: tuple[int, ...]
    text: str
    thinking: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUsed:
    """What the search has cost so far."""

    type: ClassVar[str] = "budget"
    at: float
    policy_tokens: int
    verifier_tokens: int
    candidates: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerChosen:
    """The search has ended."""

    type: ClassVar[str] = "answer"
    at: float
    path: tuple[int, ...]
    answer: str | None
    score: float | None
    end_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """So many events since the one before were left out, for who reads them is slow. Never text, nor the answer."""

    type: ClassVar[str] = "dropped"
    at: float
    count: int


SearchEvent = StepWritten | StepScored | Forked | Pruned | Voted | TextWritten | BudgetUsed | AnswerChosen | Dropped
Observer = Callable[[SearchEvent], None]
"""Is told at once, in the search's own task: it must be quick, and may not raise."""


def as_json(event: SearchEvent) -> dict[str, Any]:
    """As an object of JSON, its `type` first."""
    return {"type": event.type, **asdict(event)}
