"""What happens while a request is answered, and how it goes over the wire as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.serving.errors import ApiError
from orchestrator.serving.orders import Answered
from orchestrator.serving.searches import Search

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing has happened for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A search of the request has its answer."""

    index: int
    answered: Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A search of the request failed, and so the request."""

    error: ApiError


Event = Waiting | Ended | Failed


class Writer(Protocol):
    """One response in the words of a dialect, as pieces of a stream of server-sent events."""

    def begun(self) -> Iterator[str]:
        """At once, before anything is known."""
        ...

    def ended(self, event: Ended) -> Iterator[str]: ...

    def failed(self, error: ApiError) -> Iterator[str]:
        """Nothing follows."""
        ...

    def closed(self) -> Iterator[str]:
        """When all searches have their answers."""
        ...


async def events(searches: Sequence[Search], keep_alive_s: float) -> AsyncIterator[Event]:
    """As they happen. A failure is the last."""
    indices = {search.task: index for index, search in enumerate(searches)}
    while indices:
        done, _ = await asyncio.wait(indices, timeout=keep_alive_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            yield Waiting()
        for index in sorted(indices.pop(task) for task in done):
            try:
                yield Ended(index=index, answered=searches[index].outcome())
            except ApiError as error:
                yield Failed(error=error)
                return


async def written(happening: AsyncIterator[Event], writer: Writer) -> AsyncIterator[str]:
    """The response's pieces."""
    for piece in writer.begun():
        yield piece
    async for event in happening:
        match event:
            case Waiting():
                yield ": searching\n\n"
            case Ended():
                for piece in writer.ended(event):
                    yield piece
            case Failed(error=error):
                for piece in writer.failed(error):
                    yield piece
                return
    for piece in writer.closed():
        yield piece


def data(value: Mapping[str, Any], event: str | None = None) -> str:
    """A value as a server-sent event."""
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {json.dumps(value, ensure_ascii=False)}\n\n"
