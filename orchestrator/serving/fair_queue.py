"""Whose turn it is to search, when more is asked for than may run."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass

from orchestrator.serving.errors import ApiError, busy, queued_too_long


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    places: int
    granted: asyncio.Future[None]


class FairQueue:
    """Owner of the places in which searches run, and of the requests that wait for some.

    Keys take turns: one that asks for much delays itself and not the others. Within a key, first come first served.
    When the queue is full, a key that has fewer waiting displaces the newest of the one that has most.
    """

    def __init__(self, places: int, max_queued: int) -> None:
        self._places = self._free = places
        self._max_queued = max_queued
        self._lines: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # none is empty; the first is next
        self._closed: ApiError | None = None

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._lines.values()))

    def check_room(self, key: str) -> None:
        """Raises ApiError when a request of the key would be refused at once."""
        if self._closed is not None:
            raise self._closed
        if (self._lines or not self._free) and len(self) >= self._max_queued and self._displaceable(key) is None:
            raise busy(self._places, self._max_queued)

    async def take(self, key: str, places: int, timeout_s: float) -> None:
        """Waits for so many places; whoever has them gives each back. Raises ApiError. Cancelling leaves the queue."""
        assert places <= self._places
        if self._closed is not None:
            raise self._closed
        if not self._lines and places <= self._free:
            self._free -= places
            return
        self._make_room(key)
        waiter = _Waiter(places, asyncio.get_running_loop().create_future())
        self._lines.setdefault(key, deque()).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.granted
        except BaseException as error:
            if _was_granted(waiter):
                self.give_back(places)
            else:
                self._remove(key, waiter)
            if isinstance(error, TimeoutError):
                raise queued_too_long(timeout_s) from None
            raise

    def give_back(self, places: int = 1) -> None:
        self._free += places
        self._admit()

    def close(self, error: ApiError) -> None:
        """Refuses what waits, and all that comes."""
        self._closed = error
        for line in self._lines.values():
            for waiter in line:
                _refuse(waiter, error)
        self._lines.clear()

    def _admit(self) -> None:
        """One that needs more places than are free is waited for, or it would never have its turn."""
        while self._lines:
            key, line = next(iter(self._lines.items()))
            if line[0].places > self._free:
                return
            waiter = line.popleft()
            if waiter.granted.done():  # it is leaving
                self._move_on(key)
                continue
            self._free -= waiter.places
            waiter.granted.set_result(None)
            self._move_on(key)

    def _move_on(self, key: str) -> None:
        """The key has had its turn."""
        if self._lines[key]:
            self._lines.move_to_end(key)
        else:
            del self._lines[key]

    def _make_room(self, key: str) -> None:
        if len(self) < self._max_queued:
            return
        longest = self._displaceable(key)
        if longest is None:
            raise busy(self._places, self._max_queued)
        newest = self._lines[longest][-1]
        self._remove(longest, newest)
        _refuse(newest, busy(self._places, self._max_queued))

    def _displaceable(self, key: str) -> str | None:
        """The key with most waiting, where it would still have at least as many as this one afterwards."""
        longest = max(self._lines, key=lambda name: len(self._lines[name]), default=None)
        if longest is None or len(self._lines[longest]) <= len(self._lines.get(key, ())) + 1:
            return None
        return longest

    def _remove(self, key: str, waiter: _Waiter) -> None:
        line = self._lines.get(key)
        if line is None or waiter not in line:
            return
        was_next = line[0] is waiter
        line.remove(waiter)
        if not line:
            del self._lines[key]
        if was_next:
            self._admit()  # it may have been what the others waited behind


def _refuse(waiter: _Waiter, error: ApiError) -> None:
    if not waiter.granted.done():
        waiter.granted.set_exception(error)


def _was_granted(waiter: _Waiter) -> bool:
    granted = waiter.granted
    return granted.done() and not granted.cancelled() and granted.exception() is None
