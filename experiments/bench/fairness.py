"""Whether drivers that share an engine get equal shares of it, and what one leaves behind.

The tiny pair in a named pool whose KV cache holds some 50 sequences, so that requests always wait. Each driver is a
process of its own.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from experiments.bench.core import Measured, interleave, spread
from experiments.bench.driver_process import DriverProcess
from experiments.bench.load import Load
from experiments.bench.named_pool import PoolWatch, idle, named_pool
from experiments.bench.tiny import TINY, VERIFIER
from orchestrator.cluster import connected
from orchestrator.core.config import RayConfig
from orchestrator.pools.record import ray_of

KV_CACHE_GIB = 0.02
GREEDY = Load(in_flight=64, n=16)
ONE_OF_MANY_SAMPLES = Load(in_flight=1, n=1024)
ONE = Load(in_flight=1, n=16, searches=1)
NUM_GREEDY = 4
WINDOW_S = 40.0
SETTLE_S = 4.0  # until all have begun and their shares are even
_FREE_S = 60.0
_ONE_S = 120.0


async def measure(*, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    policy = replace(TINY.policy, kv_cache_gib=KV_CACHE_GIB)
    async with named_pool(policy, VERIFIER) as name:
        ray = ray_of(name, RayConfig())
        assert ray.address is not None
        with connected(ray, 0):
            async with AsyncExitStack() as stack:
                starting = [DriverProcess.started(name, ray.address, number=number) for number in range(NUM_GREEDY)]
                drivers = [await stack.enter_async_context(each) for each in starting]
                shares = Shares(pool=PoolWatch(name), drivers=drivers)
                figures = await interleave(repeats, shares.variants, on_repeat)
                figures["freed after a SIGKILL"] = await _killed(name, ray.address, repeats, shares.pool, on_repeat)
                [engine] = [row for row in await shares.pool.rows() if row.part == "policy"]
    equal = figures["equal drivers"]
    lone = [beside / alone for beside, alone in zip(figures["one beside"], figures["one alone"], strict=True)]
    return Measured(
        ratio=spread(equal)["median"],
        ratio_min=min(equal),
        ratio_max=max(equal),
        baseline="the other one of two equal drivers; tokens in the same window",
        goal="0.9 to 1.1; nothing preempted; a dead driver's work freed within 5 s",
        settings={
            "policy": "tiny",
            "verifier": "tiny",
            "kv_cache_gib": KV_CACHE_GIB,
            "window_s": WINDOW_S,
            "drivers": NUM_GREEDY,
            "searches_in_flight": GREEDY.in_flight,
            "n": GREEDY.n,
            "repeats": repeats,
        },
        details={
            "preemptions": engine.preemptions,
            "one_search_over_64": spread(figures["one search of 1024"]),
            "least_over_most_of_4": spread(figures["4 drivers"]),
            "lone_search_beside_64_over_alone": spread(lone),
            "seconds": {
                key: spread(figures[key])
                for key in ("one alone", "one beside", "freed after an abort", "freed after a SIGKILL")
            },
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What is measured with drivers that stay."""

    pool: PoolWatch
    drivers: list[DriverProcess]
    window_s: float = WINDOW_S

    @property
    def variants(self) -> dict[str, Callable[[int], Any]]:
        return {
            "equal drivers": lambda _: self.ratio(GREEDY, GREEDY),
            "one search of 1024": lambda _: self.ratio(ONE_OF_MANY_SAMPLES, GREEDY),
            "4 drivers": lambda _: self.evenness(),
            "one alone": lambda _: self.one(),
            "one beside": lambda _: self.one_beside(),
            "freed after an abort": lambda _: self.freed(),
        }

    async def ratio(self, first: Load, second: Load) -> float:
        """Of what two drivers are given at the same time."""
        one, other = await self._given([first, second])
        return one / other

    async def evenness(self) -> float:
        """The least over the most that greedy drivers are given."""
        given = await self._given([GREEDY] * NUM_GREEDY)
        return min(given) / max(given)

    async def one(self) -> float:
        """Seconds of one search."""
        self.drivers[0].go(ONE)
        return (await self.drivers[0].ended(_ONE_S)).seconds

    async def one_beside(self) -> float:
        """Likewise, beside a greedy driver."""
        self.drivers[1].go(GREEDY)
        await asyncio.sleep(SETTLE_S)
        seconds = await self.one()
        await self._stop(self.drivers[1:2])
        return seconds

    async def freed(self) -> float:
        """Seconds until nothing is left of a greedy driver's searches that it gives up."""
        self.drivers[0].go(GREEDY)
        await asyncio.sleep(SETTLE_S)
        self.drivers[0].stop()
        seconds = await self.pool.seconds_until(idle, _FREE_S)
        await self.drivers[0].ended(_FREE_S)
        return seconds

    async def _given(self, loads: list[Load]) -> list[float]:
        """Tokens in the window, of drivers that begin together."""
        drivers = self.drivers[: len(loads)]
        for driver, load in zip(drivers, loads, strict=True):
            driver.go(load)
        await asyncio.sleep(SETTLE_S)
        began = time.monotonic()
        await asyncio.sleep(self.window_s)
        ended = time.monotonic()
        await self._stop(drivers)
        return [driver.tokens_in(began, ended) for driver in drivers]

    async def _stop(self, drivers: list[DriverProcess]) -> None:
        for driver in drivers:
            driver.stop()
        for driver in drivers:
            await driver.ended(_FREE_S)
        await self.pool.seconds_until(idle, _FREE_S)


async def _killed(
    name: str, address: str, repeats: int, pool: PoolWatch, on_repeat: Callable[[str], None]
) -> list[float]:
    """Seconds until nothing is left of a greedy driver that is killed."""
    figures = []
    for repeat in range(repeats):
        async with DriverProcess.started(name, address, number=NUM_GREEDY + repeat) as driver:
            driver.go(GREEDY)
            await asyncio.sleep(SETTLE_S)
            driver.kill()
            figures.append(await pool.seconds_until(idle, _FREE_S))
        on_repeat(f"{repeat + 1}/{repeats} freed after a SIGKILL: {figures[-1]:.4g}")
    return figures
