"""How much of an answer is told while it is written: text that stays, whatever comes."""

from collections.abc import Callable, Sequence

from orchestrator.core.errors import ReplicaError
from orchestrator.core.nouns import Step

Tell = Callable[[tuple[int, ...], str, bool], None]
"""Of a trajectory, by its path: more of its text, and whether that is thinking."""
_Piece = tuple[str, bool]


class AnswerText:
    """Owner of what was told of the one trajectory that a search writes."""

    def __init__(self, tell: Tell, stop: Sequence[str]) -> None:
        """`stop`: texts that are cut off where they are whole, so that their beginnings are held back."""
        self._tell = tell
        self._stop = tuple(stop)
        self._steps: list[_Piece] = []  # that are whole
        self._open: _Piece = ("", False)  # what is known of the step that is being written
        self._told = ""

    def steps(self, path: tuple[int, ...], steps: Sequence[Step], *, ended: bool) -> None:
        """The trajectory has these steps; `ended`: and no others. Raises ReplicaError where they are not what was told:
        a replica was lost, and another one wrote something else."""
        self._steps, self._open = [(step.text, step.thinking) for step in steps], ("", False)
        self._go_on(path, ended)

    def early(self, path: tuple[int, ...], text: str, *, begin: int, thinking: bool) -> None:
        """The step that is being written has this text from its character `begin` on. Raises as `steps`."""
        self._open = (self._open[0][:begin] + text, thinking)
        self._go_on(path, ended=False)

    def _go_on(self, path: tuple[int, ...], ended: bool) -> None:
        pieces = [*self._steps, self._open]
        whole = "".join(text for text, _ in pieces)
        known = min(len(whole), len(self._told))
        if whole[:known] != self._told[:known]:
            raise ReplicaError("policy: a replica was lost, and what it had written was shown already")
        end = len(whole) if ended else len(whole) - self._held(whole)
        at = 0
        for text, thinking in pieces:
            more = text[max(0, len(self._told) - at) : max(0, end - at)]
            at += len(text)
            if more:
                self._told += more
                self._tell(path, more, thinking)

    def _held(self, text: str) -> int:
        """Characters at its end with which a stop text may have begun."""
        lengths = (size for stop in self._stop for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(lengths, default=0)
