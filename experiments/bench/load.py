"""A driver of a named pool that searches as it is told, in a process of its own: what benchmarks of shared pools start.

python -m experiments.bench.load POOL ADDRESS

It reads orders and says what comes of them, an object of JSON on each line: `go` begins searches, `stop` cancels them.
It ends with its standard input.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from experiments.bench.tiny import TINY, VERIFIER, problems
from orchestrator.cluster import connected
from orchestrator.core.config import RayConfig
from orchestrator.pools.open import open_pools
from orchestrator.search import SearchRuntime, for_each
from orchestrator.session import SearchSession
from orchestrator.verifier.resolve import resolve
from strategies.best_of_n import BestOfN

TICK_S = 0.25
_TASKS_END_S = 10.0  # for what searches that are cancelled still say to replicas
_NUM_PROBLEMS = 1000  # then again, with another seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a driver asks of a pool: best-of-n searches, so many at a time."""

    in_flight: int
    n: int
    searches: int | None = None  # then it is done; None: until it is told to stop


class Searching:
    """Owner of the searches in flight. Counts the tokens that they were given."""

    def __init__(self, runtime: SearchRuntime, first: int) -> None:
        """`first`: number of its first search; each draws other samples."""
        self._runtime = runtime
        self._problems = problems(_NUM_PROBLEMS)
        self._numbers = itertools.count(first)
        self._live: set[SearchSession] = set()
        self._ended_tokens = 0
        self.num_ended = 0

    @property
    def num_tokens(self) -> int:
        return self._ended_tokens + sum(session.ledger.generated_tokens for session in self._live)

    async def run(self, load: Load) -> None:
        strategy = BestOfN(n=load.n)

        async def search(number: int) -> None:
            session = self._runtime.session(number // _NUM_PROBLEMS)
            self._live.add(session)
            try:
                async with session:
                    await strategy.search(self._problems[number % _NUM_PROBLEMS], session)
                self.num_ended += 1
            finally:
                self._live.remove(session)
                self._ended_tokens += session.ledger.generated_tokens

        numbers = self._numbers if load.searches is None else itertools.islice(self._numbers, load.searches)
        await for_each(numbers, search, in_flight=load.in_flight)


async def drive(pool: str, address: str, first: int) -> None:
    with connected(RayConfig(address=address), replicas=0):
        async with AsyncExitStack() as stack:
            policy, verifier = await open_pools(
                stack, policy=TINY.policy, steps=TINY.steps, verifier=resolve(VERIFIER), pool=pool
            )
            searching = Searching(TINY.runtime(policy, verifier), first)
            _say("ready")
            async with asyncio.TaskGroup() as tasks:
                running: asyncio.Task[None] | None = None
                async for order in _orders():
                    if order.pop("do") == "go":
                        running = tasks.create_task(_go(searching, Load(**order)))
                    elif running is not None:
                        running.cancel()
                if running is not None:
                    running.cancel()


async def _go(searching: Searching, load: Load) -> None:
    """Searches; says how far it is, and when it has ended, also when it is cancelled."""
    began, num_tasks = time.monotonic(), len(asyncio.all_tasks())
    with suppress(asyncio.CancelledError):
        async with _ticking(searching):
            await searching.run(load)
    ended = time.monotonic()
    while (left := len(asyncio.all_tasks()) - num_tasks) > 0 and time.monotonic() - ended < _TASKS_END_S:  # noqa: ASYNC110
        await asyncio.sleep(TICK_S)
    _say("ended", seconds=ended - began, tasks_left=left)


@asynccontextmanager
async def _ticking(searching: Searching) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            _say("tick", at=time.monotonic(), tokens=searching.num_tokens, searches=searching.num_ended)
            await asyncio.sleep(TICK_S)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking


async def _orders() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def _say(what: str, **values: Any) -> None:
    print(json.dumps({"said": what, **values}), flush=True)


if __name__ == "__main__":
    asyncio.run(drive(sys.argv[1], sys.argv[2], int(sys.argv[3])))
