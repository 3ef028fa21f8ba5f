"""A thread that runs only while the event loop stands still, so that what both do happens in one order."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import Empty
from typing import Any, TypeVar

T = TypeVar("T")

_here = threading.local()


class Ended(BaseException):
    """The process of the thread has ended."""


def in_loop(wait: Coroutine[Any, Any, T]) -> T:
    """Called in a `SteppedThread`: what the loop makes of `wait`, for which the thread stands still."""
    return _here.thread.stand_still(wait)  # type: ignore[no-any-return]


class SteppedThread:
    """Looks like a `ThreadPoolExecutor` of one worker."""

    def __init__(self, **_: Any) -> None:
        self._jobs: asyncio.Queue[tuple[Future[Any], Callable[[], Any]]] = asyncio.Queue()
        self._go, self._stop = threading.Semaphore(0), threading.Semaphore(0)
        self._wait: Coroutine[Any, Any, Any] | None = None
        self._outcome: Any = None  # of what it waited for
        self._working = asyncio.ensure_future(self._work())

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        job: Future[Any] = Future()
        self._jobs.put_nowait((job, lambda: call(*args)))
        return job

    async def end(self) -> None:
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)

    def stand_still(self, wait: Coroutine[Any, Any, T]) -> T:
        self._wait = wait
        self._stop.release()
        self._go.acquire()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome  # type: ignore[no-any-return]

    async def _work(self) -> None:
        while True:
            job, call = await self._jobs.get()
            if job.set_running_or_notify_cancel():
                await self._run(job, call)

    async def _run(self, job: Future[Any], call: Callable[[], Any]) -> None:
        thread = threading.Thread(target=self._body, args=(job, call), daemon=True)
        thread.start()
        while self._steps():
            assert self._wait is not None
            wait, self._wait = self._wait, None
            try:
                self._outcome = await wait
            except asyncio.CancelledError:
                self._outcome = Ended()
                self._steps()
                thread.join()
                raise
            except Exception as error:
                self._outcome = error
        thread.join()

    def _steps(self) -> bool:
        """Lets the thread run until it waits, or is done. Whether it waits."""
        self._go.release()
        self._stop.acquire()
        return self._wait is not None

    def _body(self, job: Future[Any], call: Callable[[], Any]) -> None:
        _here.thread = self
        self._go.acquire()
        try:
            job.set_result(call())
        except Exception as error:
            job.set_exception(error)
        except Ended:
            pass
        finally:
            self._stop.release()


class SteppedQueue:
    """Looks like a `SimpleQueue` that such a thread reads."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._some = asyncio.Event()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._some.set()

    def get(self, timeout: float | None = None) -> Any:
        in_loop(self._filled(timeout))
        if not self._items:
            raise Empty
        return self._items.popleft()

    async def _filled(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            pass
