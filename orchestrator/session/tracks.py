"""Children while they are being written and scored."""

from dataclasses import dataclass
from itertools import accumulate

from orchestrator.core.account import Hold
from orchestrator.core.ledger import Tally
from orchestrator.core.nouns import StateHandle, Status, Step, Trajectory
from orchestrator.core.tools import CallingReply
from orchestrator.core.values import changed
from orchestrator.session.sequences import LiveSequence


@dataclass(slots=True, eq=False)
class Track:
    """Owner of what a child has so far. It becomes a value once, when the call that writes it returns."""

    prefix: Trajectory  # which it continues
    path: tuple[int, ...]
    token_ids: tuple[int, ...]  # prompt and completion; at first one tuple for all children of a prefix, sent once
    ends: list[int]  # counts of these tokens at the steps' ends
    steps: list[Step]
    cost: Tally
    handle: StateHandle | None
    status: Status
    answer: str | None
    unjudged: str | None
    num_told: int  # first steps that an observer knows
    calling: CallingReply | None = None
    sequence: LiveSequence | None = None  # None: nothing is to be written
    hold: Hold | None = None  # what may be spent on it
    written: bool = False
    stopped: bool = False  # its last step is a text at which its strategy has it stop, and may be taken back
    num_settled: int = 0  # first steps of which none will be read any more

    @property
    def num_tokens(self) -> int:
        """As `Trajectory.num_tokens`."""
        return len(self.token_ids) - len(self.prefix.prompt_ids)

    @property
    def text(self) -> str:
        return "".join([step.text for step in self.steps])

    def append(self, step: Step) -> None:
        self.steps.append(step)
        self.token_ids += step.token_ids
        self.ends.append(len(self.token_ids))

    def shorten(self, num_chars: int) -> None:
        """Takes so many characters off the end of its text: they begin a stop text. The tokens stay."""
        for index in reversed(range(len(self.steps))):
            text = self.steps[index].text
            self.steps[index] = changed(self.steps[index], text=text[: max(0, len(text) - num_chars)])
            self.num_told = min(self.num_told, index)
            num_chars -= len(text)
            if num_chars <= 0:
                return

    def trajectory(self) -> Trajectory:
        """What it has so far, as a value."""
        return changed(
            self.prefix,
            steps=tuple(self.steps),
            path=self.path,
            handle=self.handle,
            status=self.status,
            answer=self.answer,
            unjudged=self.unjudged,
            cost=self.cost.ledger(),
            calling=self.calling,
        )


def track_of(trajectory: Trajectory) -> Track:
    """The trajectory itself, to be read or ended."""
    return forks_of(trajectory, [trajectory.path])[0]


def forks_of(prefix: Trajectory, paths: list[tuple[int, ...]]) -> list[Track]:
    """One for each path, all with what the prefix has."""
    token_ids = prefix.token_ids
    lengths = (len(step.token_ids) for step in prefix.steps)
    _, *ends = accumulate(lengths, initial=len(prefix.prompt_ids))
    return [
        Track(
            prefix=prefix,
            path=path,
            token_ids=token_ids,
            ends=list(ends),
            steps=list(prefix.steps),
            cost=Tally(prefix.cost),
            handle=prefix.handle,
            status=prefix.status,
            answer=prefix.answer,
            unjudged=prefix.unjudged,
            num_told=len(prefix.steps),
            calling=prefix.calling,
        )
        for path in paths
    ]
