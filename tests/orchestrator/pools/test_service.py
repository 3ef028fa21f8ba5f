"""Facts about named pools, on real Ray actors: a policy over a scripted server, so that no engine must load, and a rule
as verifier."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from orchestrator.core.config import PolicyConfig, StepConfig, VerifierConfig
from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Generation, ScoreRequest, Solution
from orchestrator.policy.host import Work
from orchestrator.policy.opened import OpenPolicy
from orchestrator.pools.client import PoolClient
from orchestrator.pools.open import open_pools
from orchestrator.pools.service import close_pool, create_pool_actor, pool_actor
from orchestrator.pools.spec import PoolSpec
from orchestrator.pools.status import ReplicaRow
from orchestrator.ray_calls import ReplicaLost, answered, kill_actor, named_actors, submit
from orchestrator.replicas.blueprint import NAMESPACE
from orchestrator.verifier.resolve import resolve
from tests.orchestrator.policy.engines.scripted_server import ScriptedServer, scripted_server
from tests.waiting import until
from verifiers.contract import Run

MODEL = str(Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy")
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)
TEXT = "3 + 4 = 7\n\n7 + 1 = 8\n\nAnswer: 8"
PROBLEM = Problem.from_prompt("p", "Box with 3 pens")
SOLUTION = Solution(problem=PROBLEM, steps=(TEXT,), asked=(0,), ended=True)
WITHIN_S = 60.0
pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(300)]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server(TOKENIZER, TEXT) as scripted:
        yield scripted


@asynccontextmanager
async def kept(server: ScriptedServer, name: str, replicas: int = 1) -> AsyncIterator[PoolSpec]:
    """A named pool; leaving ends it."""
    policy = PolicyConfig(
        engine="openai", model="m", urls=[server.url] * replicas, replicas=replicas, tokenizer=MODEL, max_restarts=5
    )
    verifier = resolve(VerifierConfig(name="regex", options={"pattern": "Answer: 8"}))
    spec = PoolSpec(name=name, policy=policy, steps=StepConfig(), verifier=verifier)
    keeper = create_pool_actor(spec)
    try:
        await answered(submit(keeper.open.remote), "the keeper", 200)
        yield spec
    finally:
        await close_pool(name)


async def status(name: str) -> tuple[list[ReplicaRow], int]:
    keeper = pool_actor(name)
    assert keeper is not None
    rows, drivers = await answered(submit(keeper.status.remote), "the keeper", WITHIN_S)
    return rows, drivers


async def written(policy: OpenPolicy) -> str:
    [prompt] = await policy.encode([PROBLEM])
    request = Generation(prefix_ids=prompt, max_tokens=100, seed=0, temperature=1.0, top_p=1.0)
    async with aclosing(policy.generate([request])) as segments:
        return "".join([segment.text async for _, segment in segments])


async def judged(verifier: Any) -> float:
    [verdict] = await verifier.score([ScoreRequest(token_ids=(1,), boundaries=(1,), solution=SOLUTION)])
    return float(verdict.scores[0].mean)


async def attach(stack: AsyncExitStack, spec: PoolSpec) -> tuple[OpenPolicy, Any]:
    return await open_pools(stack, policy=spec.policy, steps=spec.steps, verifier=spec.verifier, pool=spec.name)


@pytest.mark.engines
async def test_drivers_share_a_pool_and_leave_it_as_it_was(server: ScriptedServer) -> None:
    async with kept(server, "shared") as spec:
        before, _ = await status("shared")
        async with AsyncExitStack() as stack:
            drivers = [await attach(stack, spec) for _ in range(2)]
            texts = await asyncio.gather(*(written(policy) for policy, _ in drivers for _ in range(3)))
            assert texts == [TEXT] * 6
            assert [await judged(verifier) for _, verifier in drivers] == [1.0, 1.0]
            rows, attached = await status("shared")
            assert attached == 2
            assert [row.pid for row in rows] == [row.pid for row in before]
        rows, attached = await status("shared")
        assert (attached, [row.running for row in rows]) == (0, [0, None])
        assert rows[0].tokens == 6 * len(server.tokens)
    assert named_actors(NAMESPACE) == []


async def test_a_keeper_that_dies_comes_back_to_the_replicas_that_live(server: ScriptedServer) -> None:
    async with kept(server, "adopted", replicas=2) as spec, AsyncExitStack() as stack:
        policy, verifier = await attach(stack, spec)
        before, _ = await status("adopted")
        os.kill(await pid_of_keeper("adopted"), signal.SIGKILL)
        assert (await written(policy), await judged(verifier)) == (TEXT, 1.0)  # nobody needs the keeper for that
        os.kill(before[0].pid, signal.SIGKILL)  # what dies while it is away is replaced when it is back
        after = await replaced("adopted", before[0].pid)
        assert [row.pid for row in after][1:] == [row.pid for row in before][1:]
        assert (await written(policy), await judged(verifier)) == (TEXT, 1.0)
        await until(lambda: policy.num_ready == 2, pause_s=0.05, within_s=WITHIN_S)


@pytest.mark.engines
async def test_replicas_whose_keeper_was_killed_for_good_end_with_the_pool_and_serve_no_later_one(
    server: ScriptedServer,
) -> None:
    async with kept(server, "orphaned"):
        before, _ = await status("orphaned")
        keeper = pool_actor("orphaned")
        kill_actor(keeper)
        await until(lambda: pool_actor("orphaned") is None, pause_s=0.05, within_s=WITHIN_S)
        assert len(named_actors(NAMESPACE)) == 2
        async with kept(server, "orphaned"):
            after, _ = await status("orphaned")
            assert not {row.pid for row in before} & {row.pid for row in after}
            kill_actor(pool_actor("orphaned"))
    await until(lambda: named_actors(NAMESPACE) == [], pause_s=0.05, within_s=WITHIN_S)


@pytest.mark.engines
async def test_a_driver_that_gave_a_replica_up_while_the_keeper_was_away_works_with_it_again(
    server: ScriptedServer,
) -> None:
    async with kept(server, "denied") as spec, AsyncExitStack() as stack:
        policy, verifier = await attach(stack, spec)
        os.kill(await pid_of_keeper("denied"), signal.SIGKILL)
        verifier._replicas[0].lose(0, ReplicaError("as if a call had failed"))
        for replica in policy._serving.values():
            replica._loss.set_result(ReplicaLost("as if a call had failed"))
        assert (await written(policy), await judged(verifier)) == (TEXT, 1.0)


@pytest.mark.engines
async def test_what_a_dead_driver_left_is_freed_and_nothing_of_others(server: ScriptedServer) -> None:
    server.stalls_after = 2
    async with kept(server, "abandoned"), PoolClient.attached("abandoned") as client:
        actor = (await client.membership("policy")).current.serving[0].actor
        asked = Generation(prefix_ids=(5, 6), max_tokens=50, seed=0, temperature=1.0, top_p=1.0)
        submits = [(0, Work(generation=asked))]
        await answered(submit(lambda: actor.connect.remote(client.client)), "the replica", WITHIN_S)
        await answered(submit(lambda: actor.update.remote(client.client, submits, [])), "the replica", WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            while (await status("abandoned"))[0][0].running != 1:
                pass  # each look is a round trip
        async with PoolClient.attached("abandoned"):
            assert (await status("abandoned"))[1] == 2
            await silenced(client)
            async with asyncio.timeout(WITHIN_S):
                while (await status("abandoned"))[0][0].running:
                    pass
            assert (await status("abandoned"))[1] == 1
        await until(lambda: server.left == 1, pause_s=0.01)


@pytest.mark.engines
async def test_what_a_driver_left_that_died_while_the_keeper_was_away_is_freed(server: ScriptedServer) -> None:
    async with kept(server, "away"), PoolClient.attached("away") as client:
        actor = (await client.membership("verifier")).current.serving[0].actor
        run = Run(key=f"{client.client}/0", token_ids=(1,), boundaries=(1,), solution=SOLUTION)
        await answered(submit(lambda: actor.read.remote([run])), "the replica", WITHIN_S)
        assert [row.states for row in (await status("away"))[0]] == [None, 1]
        os.kill(await pid_of_keeper("away"), signal.SIGKILL)
        await silenced(client)
        async with asyncio.timeout(WITHIN_S):
            while (await answered(submit(actor.stats.remote), "the replica", WITHIN_S))["states"]:
                pass  # each look is a round trip


@pytest.mark.engines
async def test_what_comes_from_a_driver_that_was_forgotten_is_freed_too(server: ScriptedServer) -> None:
    async with kept(server, "late"), PoolClient.attached("late") as client:
        actor = (await client.membership("verifier")).current.serving[0].actor
        run = Run(key="gone/0", token_ids=(1,), boundaries=(1,), solution=SOLUTION)
        await answered(submit(lambda: actor.read.remote([run])), "the replica", WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            while (await answered(submit(actor.stats.remote), "the replica", WITHIN_S))["states"]:
                pass  # each look is a round trip


async def silenced(client: PoolClient) -> None:
    """As if its process were dead: it says no more that it lives."""
    client._left.set()
    await asyncio.to_thread(client._beating.join)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"policy": {"system_prompt": "Be brief."}}, 'policy.system_prompt: "", got "Be brief."; wanted the same'),
        ({"steps": {"every_tokens": 3}}, "steps.every_tokens: null, got 3; wanted the same"),
        ({"verifier": {"options": {"pattern": "x"}}}, 'verifier.options.pattern: "Answer: 8", got "x"'),
    ],
)
async def test_a_pool_that_keeps_something_else_is_refused(
    server: ScriptedServer, change: dict[str, dict[str, Any]], why: str
) -> None:
    policy = PolicyConfig(engine="openai", model="m", urls=[server.url], tokenizer=MODEL)
    verifier = resolve(VerifierConfig(name="regex", options={"pattern": "Answer: 8"}))
    spec = PoolSpec(name="other", policy=policy, steps=StepConfig(), verifier=verifier)
    own = resolve(replace(verifier.config, **change.get("verifier", {})))
    with pytest.raises(UserError) as error:
        spec.check_fits(
            replace(policy, replicas=7, **change.get("policy", {})), replace(spec.steps, **change.get("steps", {})), own
        )
    assert why in str(error.value)
    spec.check_fits(replace(policy, replicas=7, max_num_seqs=2), spec.steps, None)


async def test_another_version_is_refused() -> None:
    policy = PolicyConfig(model=MODEL)
    spec = PoolSpec(name="old", policy=policy, steps=StepConfig(), verifier=None, versions={"headrace": "0.0.1"})
    with pytest.raises(UserError, match=r"old runs headrace 0\.0\.1, here is .*; wanted the same"):
        spec.check_fits(policy, StepConfig(), None)


async def test_a_pool_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="there is no pool 'nowhere' on this Ray; headrace up starts one"):
        async with PoolClient.attached("nowhere"):
            pass


async def pid_of_keeper(name: str) -> int:
    keeper = pool_actor(name)
    assert keeper is not None
    pid: int = await answered(submit(keeper.pid.remote), "the keeper", WITHIN_S)
    return pid


async def replaced(name: str, pid: int) -> list[ReplicaRow]:
    """The rows, once the first replica is another one."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                rows, _ = await status(name)
            except Exception:  # the keeper is being restarted
                rows = []
            if rows and rows[0].part == "policy" and rows[0].index == 0 and rows[0].pid != pid:
                return rows
