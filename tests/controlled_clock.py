"""An event loop whose clock stands still while there is something to do, and then jumps to the next timer: an hour of
timeouts passes in no time."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NeverWaits(selectors.DefaultSelector):
    """Lets time pass where a loop would wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        assert ready or timeout is not None, "every task waits, and no timer will wake one"
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class ControlledLoop(asyncio.SelectorEventLoop):
    """Owner of the clock. Nothing in it may wait for another thread."""

    def __init__(self) -> None:
        self._clock = _NeverWaits()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.run_until_complete(work)

    def let_pass(self, seconds: float) -> None:
        self.run_until_complete(asyncio.sleep(seconds))
