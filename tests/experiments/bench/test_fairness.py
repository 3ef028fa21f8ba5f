"""Facts about drivers that share one engine: real ones, on the tiny pair, with too small a KV cache for them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from experiments.bench.driver_process import DriverProcess
from experiments.bench.fairness import GREEDY, KV_CACHE_GIB, NUM_GREEDY, ONE, Shares
from experiments.bench.named_pool import PoolWatch, idle
from experiments.bench.tiny import TINY, VERIFIER
from orchestrator.core.protocols import Finish, Generation
from orchestrator.pools.open import open_pools
from orchestrator.pools.service import own_pool
from orchestrator.pools.spec import PoolSpec
from orchestrator.pools.status import ReplicaRow
from orchestrator.verifier.resolve import resolve

POOL = "crowded"
WITHIN_S = 240.0
pytestmark = [pytest.mark.engines, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
async def shares(local_ray: Path) -> AsyncIterator[Shares]:
    policy = replace(TINY.policy, kv_cache_gib=KV_CACHE_GIB, start_timeout_s=1200.0)
    async with own_pool(PoolSpec(name=POOL, policy=policy, steps=TINY.steps, verifier=resolve(VERIFIER))):
        async with AsyncExitStack() as stack:
            drivers = [await stack.enter_async_context(driver(number)) for number in range(NUM_GREEDY)]
            yield Shares(pool=PoolWatch(POOL), drivers=drivers, window_s=30.0)


def driver(number: int):  # type: ignore[no-untyped-def]
    return DriverProcess.started(POOL, ray.get_runtime_context().gcs_address, number=number)


def crowded(rows: list[ReplicaRow]) -> bool:
    """Whether requests wait in the engine, and a state is held."""
    return any(row.part == "policy" and row.running and row.waiting for row in rows) and any(row.states for row in rows)


async def preemptions(shares: Shares) -> int | None:
    [count] = [row.preemptions for row in await shares.pool.rows() if row.part == "policy"]
    return count


async def test_greedy_drivers_get_even_shares_and_preempt_nothing(shares: Shares) -> None:
    assert await shares.evenness() > 0.75
    assert await preemptions(shares) == 0


async def test_requests_that_fill_their_last_block_partly_preempt_nothing(shares: Shares) -> None:
    async with AsyncExitStack() as stack:
        policy, _ = await open_pools(stack, policy=TINY.policy, steps=TINY.steps, verifier=None, pool=POOL)
        prompts = await policy.encode(TINY.problems(300, 0))
        asked = [  # 80 tokens each, in three blocks of 32, and no two alike
            Generation(prefix_ids=prompt[-34:], max_tokens=46, seed=0, temperature=1.0, top_p=1.0) for prompt in prompts
        ]
        async with aclosing(policy.generate(asked)) as segments:
            finished = [segment.finish async for _, segment in segments if segment.finish is not None]
    assert finished.count(Finish.LENGTH) > len(asked) / 4
    assert await preemptions(shares) == 0


async def test_one_search_of_many_samples_gets_as_much_as_many_searches(shares: Shares) -> None:
    assert 0.75 < await shares.ratio(replace(GREEDY, in_flight=1, n=1024), GREEDY) < 1.33


async def test_a_small_search_ends_beside_a_driver_that_takes_all_it_can_get(shares: Shares) -> None:
    one, greedy, *_ = shares.drivers
    greedy.go(GREEDY)
    await shares.pool.seconds_until(crowded, WITHIN_S)
    one.go(ONE)
    await one.ended(WITHIN_S)
    assert crowded(await shares.pool.rows())
    greedy.stop()
    assert (await greedy.ended(WITHIN_S)).tasks_left == 0
    await shares.pool.seconds_until(idle, WITHIN_S)


async def test_nothing_is_left_of_a_driver_that_is_killed(shares: Shares) -> None:
    async with driver(NUM_GREEDY) as lost:
        lost.go(GREEDY)
        await shares.pool.seconds_until(crowded, WITHIN_S)
        lost.kill()
        await shares.pool.seconds_until(idle, WITHIN_S)
    assert await preemptions(shares) == 0
