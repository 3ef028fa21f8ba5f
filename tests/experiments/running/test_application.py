"""The endpoint as one of several applications of a Ray Serve, in several processes over a named pool of the tiny pair:
it is deployed beside others, updated under load, and loses a process."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from experiments.config import PROJECT_ROOT
from experiments.running.pool import plan_pool
from experiments.running.serve import plan_serving, serve_file
from orchestrator.core.errors import UserError
from orchestrator.pools.service import own_pool, pool_actor
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.proxied import proxied_application, running_application
from strategies import STRATEGIES
from tests.experiments.running.test_serve import PROMPT, free_port

CONFIG = PROJECT_ROOT / "configs" / "serve.yaml"
POOL = PROJECT_ROOT / "configs" / "pool.yaml"
TIMEOUT_S = 300.0
BACK_S = 30.0  # 10 s on a quiet machine
BODY: Any = {"model": "tinymath@greedy", "messages": PROMPT, "max_tokens": 60}

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]


def planned(*overrides: str) -> ServeConfig:
    own = ("pool=shared", "keys.required=false", "application.route_prefix=/math", "application.replicas=2")
    return plan_serving(CONFIG, [*own, *overrides])


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Other:
    async def __call__(self, request: Any) -> str:
        return "other"


@pytest.fixture(scope="module")
async def origin(local_ray: Path) -> AsyncIterator[str]:
    """Of a Serve that runs already, with another application at `/other`, beside a named pool."""
    port = free_port()
    async with own_pool(plan_pool(POOL, ["name=shared", "policy.kv_cache_gib=0.25"]).spec):
        await asyncio.to_thread(serve.start, http_options={"host": "127.0.0.1", "port": port})
        try:
            await asyncio.to_thread(serve.run, Other.bind(), name="other", route_prefix="/other")
            yield f"http://127.0.0.1:{port}"
        finally:
            await asyncio.to_thread(serve.shutdown)


@pytest.fixture
async def client(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin, timeout=TIMEOUT_S) as made:
        yield made


@asynccontextmanager
async def running(config: ServeConfig) -> AsyncIterator[str]:
    endpoint = running_application(config, STRATEGIES)
    url = await asyncio.to_thread(endpoint.__enter__)
    try:
        yield url
    finally:
        await asyncio.to_thread(endpoint.__exit__, None, None, None)


async def processes(client: httpx.AsyncClient, within_s: float = 60.0, wanted: int = 2) -> set[str]:
    """Names of the endpoint's processes that answer, once there are so many."""
    found: set[str] = set()
    end = time.monotonic() + within_s
    while len(found) < wanted and time.monotonic() < end:
        with suppress(httpx.HTTPError):
            answer = await client.get("/math/metrics", headers={"connection": "close"})
            for family in text_string_to_metric_families(answer.text):
                found |= {sample.labels["endpoint"] for sample in family.samples}
        await asyncio.sleep(0.02)
    return found


@dataclass
class Load:
    """Clients that ask for one answer after another."""

    client: httpx.AsyncClient
    statuses: list[int | str] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self) -> None:
        while not self.stopping.is_set():
            try:
                answer = await self.client.post("/math/v1/chat/completions", json=BODY)
                self.statuses.append(answer.status_code)
            except httpx.HTTPError as error:
                self.statuses.append(type(error).__name__)

    @asynccontextmanager
    async def of(self, clients: int) -> AsyncIterator["Load"]:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self.ask())
            try:
                yield self
            finally:
                self.stopping.set()

    async def answers(self, more: int) -> None:
        """Waits until so many more have been answered."""
        until = len(self.statuses) + more
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.statuses) < until:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)


async def test_it_runs_beside_another_application_and_leaves_that_alone(origin: str, client: httpx.AsyncClient) -> None:
    async with running(planned()) as url:
        assert url == f"{origin}/math"
        answer = await client.post("/math/v1/chat/completions", json={**BODY, "model": "tinymath@beam_search"})
        assert answer.status_code == 200, answer.text
        assert (await client.get("/math/healthz")).json()["status"] == "ready"
        assert (await client.post("/math/v1/chat/completions", content=b"{")).status_code == 415
        assert (await client.get("/other")).text == "other"
        assert len(await processes(client)) == 2
        for override, words in (
            ("application.route_prefix=/else", "'headrace' already runs"),
            ("application.name=else", "/math is 'headrace'"),
        ):
            with pytest.raises(UserError, match=words):
                await asyncio.to_thread(running_application(planned(override), STRATEGIES).__enter__)
        assert (await client.get("/math/healthz")).status_code == 200
    assert (await client.get("/other")).text == "other"
    assert (await client.get("/math/healthz")).status_code == 404
    assert pool_actor("shared") is not None


async def test_a_rolling_update_under_load_fails_no_request(origin: str, client: httpx.AsyncClient) -> None:
    async with running(planned()):
        before = await processes(client)
        async with Load(client).of(4) as load:
            await load.answers(20)
            changed = proxied_application(planned("alias=tinymath", "strategies.best_of_n.n=8"), STRATEGIES)
            await asyncio.to_thread(serve.run, changed, name="headrace", route_prefix="/math")
            await load.answers(20)
        after = await processes(client)
        asked = {**BODY, "model": "tinymath@best_of_n"}
        answer = (await client.post("/math/v1/chat/completions", json=asked)).json()
    assert set(load.statuses) == {200}, load.statuses
    assert answer["headrace"]["params"]["n"] == 8
    assert len(after) == 2 and not after & before


async def test_a_process_that_dies_costs_its_own_requests_and_another_is_there_soon(
    origin: str, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(planned()):
        before = await processes(client)
        engines = await engine_pids()
        async with Load(client).of(4) as load:
            await load.answers(20)
            victim = sorted(before)[0]
            os.kill(int(victim.rpartition("-")[2]), signal.SIGKILL)
            began = time.monotonic()
            while victim in (found := await processes(client)) or len(found) < 2:
                assert time.monotonic() - began < BACK_S, found
            back_s = time.monotonic() - began
            await load.answers(20)
        assert await engine_pids() == engines
    with capsys.disabled():
        print(f"\na process of the endpoint was replaced after {back_s:.1f} s")
    failed = [status for status in load.statuses if status != 200]
    assert len(failed) <= 4, load.statuses  # no more than were in flight
    assert set(load.statuses[-20:]) == {200}


async def test_requests_that_pile_up_bring_another_process_and_none_fails(
    origin: str, client: httpx.AsyncClient
) -> None:
    scaled = planned("application.replicas=1", "application.max_replicas=2", "limits.max_concurrent=1")
    async with running(scaled):
        assert len(await processes(client, wanted=1)) == 1
        async with Load(client).of(6) as load:
            assert len(await processes(client, within_s=180.0)) == 2  # Serve waits for half a minute of load first
            await load.answers(20)
    assert set(load.statuses) == {200}, load.statuses


async def engine_pids() -> list[int | None]:
    rows, _ = await pool_actor("shared").status.remote()
    return [row.pid for row in rows]


async def test_what_emit_config_prints_is_deployed_by_serve_as_it_stands(
    origin: str, client: httpx.AsyncClient
) -> None:
    overrides = ["pool=shared", "keys.required=false", "application.route_prefix=/math", f"port={origin[-5:]}"]
    text = serve_file(CONFIG, overrides)
    await asyncio.to_thread(serve.delete, "other")  # Serve takes a file for all that there is to be
    deploying = ServeDeploySchema.model_validate(yaml.safe_load(text))
    await asyncio.to_thread(_get_global_client().deploy_apps, deploying, _blocking=True)
    answer = await client.post("/math/v1/chat/completions", json=BODY)
    assert answer.status_code == 200, answer.text
