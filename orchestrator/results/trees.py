"""A search tree as it is kept: made of what happens in a search, while it runs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.search_events import AnswerChosen, Pruned, SearchEvent, StepScored, StepWritten
from orchestrator.core.values import changed
from orchestrator.results.rows import NodeRow

_Place = tuple[tuple[int, ...], int]  # a path, and the index of a step in its trajectory


@dataclass(slots=True, eq=False)
class _Node:
    """A step. What is told of it later is put in."""

    number: int
    parent: int
    written: StepWritten
    scored: StepScored | None = None
    given_up: bool = False


class TreeRecorder:
    """Implements `Observer`. Owner of one search's nodes, in the order in which they were written."""

    def __init__(self) -> None:
        self._nodes: dict[_Place, _Node] = {}
        self._last: dict[tuple[int, ...], int] = {}  # the largest index of a path's own steps
        self._chosen: tuple[int, ...] | None = None  # the path of the answer

    def __call__(self, event: SearchEvent) -> None:
        match event:
            case StepWritten(path=path, index=index):
                self._write(path, index, event)
            case StepScored(path=path, index=index):
                if (node := self._nodes.get((path, index))) is not None:
                    node.scored = event
            case Pruned(path=path):
                if path in self._last:
                    self._nodes[path, self._last[path]].given_up = True
            case AnswerChosen(path=path):
                self._chosen = path

    def rows(self, question: str, keys: dict[str, Any]) -> list[NodeRow]:
        """The root, which is the question, and every step. `keys`: the columns that all of a search's rows share."""
        nodes = list(self._nodes.values())
        pruned, chosen = _pruned(nodes), self._on_the_chosen_path()
        root = NodeRow(
            **keys,
            node=0,
            parent=None,
            path=(),
            step=None,
            text=question,
            num_tokens=0,
            score=None,
            uncertainty=None,
            pruned=False,
            finished=False,
            chosen=bool(chosen),
            at_s=0.0,
        )
        return [root, *(_row(root, node, node.number in pruned, node.number in chosen) for node in nodes)]

    def _write(self, path: tuple[int, ...], index: int, written: StepWritten) -> None:
        if (node := self._nodes.get((path, index))) is not None:
            node.written = written
            return
        number = len(self._nodes) + 1
        self._nodes[path, index] = _Node(number, self._before(path, index), written)
        self._last[path] = max(index, self._last.get(path, index))

    def _before(self, path: tuple[int, ...], index: int) -> int:
        """The number of the step before: of the same path, or of a prefix that the path goes on from."""
        for length in range(len(path), -1, -1):
            if (node := self._nodes.get((path[:length], index - 1))) is not None:
                return node.number
        return 0

    def _on_the_chosen_path(self) -> set[int]:
        if self._chosen is None:
            return set()
        nodes = {node.number: node for node in self._nodes.values()}
        number = self._nodes[self._chosen, self._last[self._chosen]].number if self._chosen in self._last else 0
        found = {0}
        while number:
            found.add(number)
            number = nodes[number].parent
        return found


def _pruned(nodes: Sequence[_Node]) -> set[int]:
    """Those that were given up, and those of which nothing that follows was kept."""
    parents = {node.parent for node in nodes}
    kept: set[int] = set()
    for node in reversed(nodes):  # what follows a node was written after it
        if node.number in kept or (node.number not in parents and not node.given_up):
            kept |= {node.number, node.parent}
    return {node.number for node in nodes} - kept


def _row(root: NodeRow, node: _Node, pruned: bool, chosen: bool) -> NodeRow:
    """The keys are the root's."""
    written, scored = node.written, node.scored
    return changed(
        root,
        node=node.number,
        parent=node.parent,
        path=written.path,
        step=written.index,
        text=written.text,
        num_tokens=written.tokens,
        score=None if scored is None else scored.score,
        uncertainty=None if scored is None else scored.uncertainty,
        pruned=pruned,
        finished=written.finished,
        chosen=chosen,
        at_s=written.at,
    )
