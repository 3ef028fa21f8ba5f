"""A process of `experiments.bench.load`, as the benchmark that started it sees it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.bench.load import Load
from orchestrator.core.errors import ReplicaError

_START_S = 240.0
_END_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """How far a driver is at one time."""

    at: float  # on the machine's monotonic clock
    tokens: int  # that its searches were given so far
    searches: int  # that have ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Of what was begun by one order."""

    seconds: float
    tasks_left: int  # asyncio tasks more than before


class DriverProcess:
    """Owner of the process and of the task that hears it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Use `started`."""
        self.ticks: list[Tick] = []
        self._process = process
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # None: it has ended

    @classmethod
    @asynccontextmanager
    async def started(cls, pool: str, address: str, *, number: int) -> AsyncIterator["DriverProcess"]:
        """Attached to the pool, and ended with the context. Drivers of another number draw other samples."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "experiments.bench.load", pool, address, str(number * 100_000)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        driver = cls(process)
        hearing = asyncio.create_task(driver._hear())
        try:
            await driver._until("ready", _START_S)
            yield driver
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(_END_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            await hearing

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self, load: Load) -> None:
        self._order({"do": "go", **asdict(load)})

    def stop(self) -> None:
        """Cancels its searches: `ended` tells when."""
        self._order({"do": "stop"})

    def kill(self) -> None:
        """With SIGKILL: it says no more."""
        self._process.kill()

    async def ended(self, within_s: float) -> Ended:
        """Once its searches have."""
        said = await self._until("ended", within_s)
        return Ended(**said)

    def tokens_in(self, began: float, until: float) -> float:
        """That its searches were given between two times; between two ticks they come evenly."""
        times, tokens = [tick.at for tick in self.ticks], [tick.tokens for tick in self.ticks]
        before, after = np.interp([began, until], times, tokens)
        return float(after - before)

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _until(self, what: str, within_s: float) -> dict[str, Any]:
        """What it says then. Raises ReplicaError where it does not."""
        try:
            async with asyncio.timeout(within_s):
                while (said := await self._said.get()) is not None:
                    if said.pop("said") == what:
                        return said
        except TimeoutError:
            raise ReplicaError(f"bench: a driver did not say {what!r} within {within_s:g} s") from None
        raise ReplicaError(f"bench: a driver ended with code {self._process.returncode} before it said {what!r}")

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if said["said"] == "tick":
                del said["said"]
                self.ticks.append(Tick(**said))
            else:
                self._said.put_nowait(said)
        self._said.put_nowait(None)
