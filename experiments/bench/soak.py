"""Whether anything grows under load: a named pool of the tiny pair, two drivers at 80% of what it can run, for minutes.

The memory that each process alone holds is sampled every 10 s. At the end nothing may be left of the load.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from statistics import mean

from experiments.bench.core import Measured
from experiments.bench.driver_process import DriverProcess
from experiments.bench.load import Load
from experiments.bench.memory import SAMPLE_S, WARM_SHARE, MemoryWatch, family
from experiments.bench.named_pool import PoolWatch, idle, named_pool
from experiments.bench.tiny import TINY, VERIFIER
from orchestrator.cluster import connected
from orchestrator.core.config import RayConfig
from orchestrator.pools.record import find_record, ray_of

N = 16
NUM_DRIVERS = 2
SHARE = 0.8
GREEDY_IN_FLIGHT, TRIAL_IN_FLIGHT = 32, 6  # searches of each driver: more than fit, and few enough that none waits
TRIAL_S = 30.0
SETTLE_S = 5.0
_FREE_S = 60.0


async def measure(*, minutes: float, on_repeat: Callable[[str], None]) -> Measured:
    """`minutes` of load, at least one."""
    async with named_pool(TINY.policy, VERIFIER) as name:
        ray = ray_of(name, RayConfig())
        holder = find_record(name).pid
        assert ray.address is not None and holder is not None
        with connected(ray, 0):
            async with AsyncExitStack() as stack:
                drivers = [
                    await stack.enter_async_context(DriverProcess.started(name, ray.address, number=number))
                    for number in range(NUM_DRIVERS)
                ]
                pool = PoolWatch(name)
                peak = await _held(pool, drivers, GREEDY_IN_FLIGHT, TRIAL_S)
                on_repeat(f"peak: {peak}")
                trial = await _held(pool, drivers, TRIAL_IN_FLIGHT, TRIAL_S)
                on_repeat(f"trial: {trial}")
                in_flight = max(1, round(TRIAL_IN_FLIGHT * SHARE * peak.running / trial.running))
                memory = MemoryWatch(
                    [each for pid in (holder, *(driver.pid for driver in drivers)) for each in family(pid)]
                )
                load = await _held(pool, drivers, in_flight, 60 * minutes, lambda: on_repeat(memory.sample()))
                on_repeat(f"load: {load}")
                left = [row for row in await pool.rows() if not idle([row])]
    return Measured(
        **memory.ratios(),
        baseline="the memory of all processes after the warm-up; at the end, by the line through the samples",
        goal="an interval that holds 1, and nothing left of the load",
        settings={
            "policy": "tiny",
            "verifier": "tiny",
            "minutes": minutes,
            "drivers": NUM_DRIVERS,
            "n": N,
            "searches_in_flight": NUM_DRIVERS * in_flight,
            "warm_share": WARM_SHARE,
        },
        details={
            "peak": asdict(peak),
            "load": asdict(load),
            "load_over_peak": {"running": load.running / peak.running, "tokens_per_s": load.rate / peak.rate},
            "all_mib_per_h": asdict(memory.total),
            "mib_per_h": {who: asdict(each) for who, each in memory.by_process.items()},
            "processes": memory.num_processes,
            "left": [asdict(row) for row in left],
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A load that was held for a time."""

    running: float  # sequences in the engine, on average
    rate: float  # tokens per second
    searches: int
    tasks_left: int  # asyncio tasks in the drivers, more than before


async def _held(
    pool: PoolWatch,
    drivers: Sequence[DriverProcess],
    in_flight: int,
    seconds: float,
    sample: Callable[[], None] = lambda: None,
) -> Held:
    """Has each driver hold so many searches in flight, and then none; `sample` is called in between."""
    for driver in drivers:
        driver.go(Load(in_flight=in_flight, n=N))
    await asyncio.sleep(SETTLE_S)
    began = time.monotonic()
    running: list[int] = []
    next_sample = began
    while (now := time.monotonic()) < began + seconds:
        if now >= next_sample:
            await asyncio.to_thread(sample)
            next_sample += SAMPLE_S
        running.append(sum(row.running or 0 for row in await pool.rows()))
        await asyncio.sleep(1.0)
    ended = time.monotonic()
    for driver in drivers:
        driver.stop()
    tasks_left = sum([(await driver.ended(_FREE_S)).tasks_left for driver in drivers])
    await pool.seconds_until(idle, _FREE_S)
    return Held(
        running=mean(running),
        rate=sum(driver.tokens_in(began, ended) for driver in drivers) / (ended - began),
        searches=sum(driver.ticks[-1].searches for driver in drivers),
        tasks_left=tasks_left,
    )
