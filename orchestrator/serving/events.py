"""What happens while a request is answered, and how it goes over the wire as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from orchestrator.core.search_events import SearchEvent, TextWritten
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """News of a search of the request: text, or else what happens in it."""

    index: int
    search_events: tuple[SearchEvent, ...]


Event = Waiting | Happened | Ended | Failed


class Writer(Protocol):
    """One response in the words of a dialect, as pieces of a stream of server-sent events."""

    def begun(self) -> Iterator[str]:
        """At once, before anything is known."""
        ...

    def text(self, index: int, text: TextWritten) -> Iterator[str]:
        """More of that search's answer, which is being written."""
        ...

    def progress(self, index: int, search_events: Sequence[SearchEvent]) -> Iterator[str]:
        """What else happens in that search."""
        ...

    def ended(self, event: Ended) -> Iterator[str]:
        """With what of the answer was not told as text."""
        ...

    def failed(self, error: ApiError) -> Iterator[str]:
        """Nothing follows."""
        ...

    def closed(self) -> Iterator[str]:
        """When all searches have their answers."""
        ...


async def events(searches: Sequence[Search], keep_alive_s: float) -> AsyncIterator[Event]:
    """As they happen. A failure is the last."""
    news = asyncio.Event()
    for search in searches:
        search.task.add_done_callback(lambda _: news.set())
        if search.feed is not None:
            search.feed.on_news = news.set
    running = dict(enumerate(searches))
    news.set()  # some of it may have happened
    while running:
        try:
            async with asyncio.timeout(keep_alive_s):
                await news.wait()
        except TimeoutError:
            yield Waiting()
        news.clear()
        for index, search in list(running.items()):
            done = search.task.done()  # before its last news are taken
            if search.feed is not None and (search_events := search.feed.take()):
                yield Happened(index=index, search_events=tuple(search_events))
            if not done:
                continue
            del running[index]
            try:
                yield Ended(index=index, answered=search.outcome())
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
            case Happened(index=index, search_events=search_events):
                for texts, some in groupby(search_events, lambda one: isinstance(one, TextWritten)):
                    if texts:
                        for text in some:
                            assert isinstance(text, TextWritten)
                            for piece in writer.text(index, text):
                                yield piece
                    else:
                        for piece in writer.progress(index, list(some)):
                            yield piece
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
