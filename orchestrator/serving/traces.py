"""Traces of past requests, kept in memory so that a page can open them. What is asked is kept nowhere else."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.core.nouns import Problem
from orchestrator.core.search_events import Forked, SearchEvent, StepWritten, TextWritten, as_json
from orchestrator.serving.config import TraceLimits
from orchestrator.serving.errors import ApiError
from orchestrator.serving.orders import Order

VERSION = 1
"""Of a trace's JSON: larger when a field changes its meaning."""

_SEARCH_BYTES = 2000  # of a search in memory, its question aside
_EVENT_BYTES = 300  # of an event in memory, with its path
_PATH_BYTES = 150  # of a path more


@dataclass(frozen=True, slots=True)
class _Kept:
    owner: str
    recording: "Recording"


class Traces:
    """Owner of the newest traces, by request id. The oldest go when there are too many, or they are too large."""

    def __init__(self, limits: TraceLimits) -> None:
        self._limits = limits
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """About what they take of the memory."""
        return self._num_bytes

    def begin(self, order: Order, owner: str) -> "Recording | None":
        """Of a request that begins; None where no traces are kept. `owner`: who alone may open it."""
        if self._limits.keep == 0:
            return None
        return Recording(order, self._limits.max_bytes, lambda recording: self._add(_Kept(owner, recording)))

    def get(self, request_id: str, owner: str) -> dict[str, Any]:
        """As JSON values. Raises ApiError where there is none, or it is another's, which looks the same."""
        found = self._kept.get(request_id)
        if found is None or found.owner != owner:
            why = "no such trace, or no longer" if self._limits.keep else "this server keeps no traces (traces.keep)"
            raise ApiError(404, f"{why}: {request_id[:128]!r}", code="trace_not_found")
        return found.recording.trace()

    def _add(self, kept: _Kept) -> None:
        """The newest of an id counts."""
        request_id = kept.recording.order.request_id
        self._drop(request_id)
        self._kept[request_id] = kept
        self._num_bytes += kept.recording.num_bytes
        while len(self._kept) > self._limits.keep or self._num_bytes > self._limits.max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, request_id: str) -> None:
        if (kept := self._kept.pop(request_id, None)) is not None:
            self._num_bytes -= kept.recording.num_bytes


class Recording:
    """What happens in the searches of one request. It is a trace when all of them have ended, and becomes JSON when
    somebody opens it: nearly nobody does, and searches wait for nothing."""

    def __init__(self, order: Order, max_bytes: int, on_end: Callable[["Recording"], None]) -> None:
        """One that grows beyond `max_bytes` is given up."""
        self.order = order
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._on_end = on_end
        self._searches: list[SearchRecording] = []
        self._num_running = 0

    def search(self, problem: Problem) -> "SearchRecording":
        """Of the next search of the request."""
        recording = SearchRecording(self, problem)
        self._searches.append(recording)
        self._num_running += 1
        self.has_room(_SEARCH_BYTES + len(problem.text))
        return recording

    def has_room(self, num_bytes: int) -> bool:
        self.num_bytes += num_bytes
        return self.num_bytes <= self._max_bytes

    def ended(self) -> None:
        """One of the searches."""
        self._num_running -= 1
        if self._num_running == 0 and self.has_room(0):
            self._on_end(self)

    def trace(self) -> dict[str, Any]:
        searches = [search.trace() for search in self._searches]
        return {"version": VERSION, "id": self.order.request_id, "model": self.order.model, "searches": searches}


class SearchRecording:
    """Implements `Observer`."""

    def __init__(self, recording: Recording, problem: Problem) -> None:
        self._recording = recording
        self._problem = problem
        self._search_events: list[SearchEvent] = []
        self._error: str | None = None

    def __call__(self, event: SearchEvent) -> None:
        if isinstance(event, TextWritten):  # the steps say it again
            return
        if self._recording.has_room(_bytes_of(event)):
            self._search_events.append(event)
        else:
            self._search_events.clear()

    def ended(self, task: asyncio.Task[Any]) -> None:
        """The search's task."""
        if task.cancelled():
            self._error = "stopped: nobody waited for it any more"
        elif (error := task.exception()) is not None:
            self._error = str(error)
        self._recording.ended()

    def trace(self) -> dict[str, Any]:
        order = self._recording.order
        return {
            "question": self._problem.text,
            "strategy": order.named.name,
            "params": order.named.params,
            "seed": order.seed,
            "budget": asdict(order.budget),
            "error": self._error,
            "events": [as_json(event) for event in self._search_events],
        }


def _bytes_of(event: SearchEvent) -> int:
    match event:
        case StepWritten(text=text):
            return _EVENT_BYTES + len(text)
        case Forked(children=children):
            return _EVENT_BYTES + _PATH_BYTES * len(children)
        case _:
            return _EVENT_BYTES
