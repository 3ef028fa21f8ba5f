"""The endpoint behind Ray Serve's own proxy, as a RayService has it, with the tiny pair and the real OpenAI client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from ray import serve

from experiments.config import PROJECT_ROOT
from experiments.running.serve import app
from orchestrator.core.errors import UserError
from tests.experiments.running.test_serve import LONG, PROMPT, free_port, idle

CONFIG = str(PROJECT_ROOT / "configs" / "serve.yaml")
TIMEOUT_S = 240.0


@pytest.mark.parametrize("args", [{}, {"config": CONFIG, "override": ["port=1"]}])
def test_arguments_that_serve_can_not_know_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="args: wanted config, and overrides or not, got"):
        app(args)


def test_behind_proxies_keys_are_needed_unless_they_are_switched_off_by_name() -> None:
    with pytest.raises(UserError, match="keys: Serve's proxies may be reached by other machines, and there are no"):
        app({"config": CONFIG})
    app({"config": CONFIG, "overrides": ["keys.required=false"]})


@pytest.fixture(scope="module")
async def url(local_ray: Any) -> AsyncIterator[str]:
    """Of Serve's proxy."""
    port = free_port()
    overrides = ["keys.required=false", "policy.kv_cache_gib=0.25", "policy.start_timeout_s=1200"]
    await asyncio.to_thread(serve.start, http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 600})
    try:
        await asyncio.to_thread(serve.run, app({"config": CONFIG, "overrides": overrides}), name="headrace")
        yield f"http://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(serve.shutdown)


@pytest.fixture(scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S) as made:
        yield made


async def health_when(url: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first health that meets the condition."""
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http, asyncio.timeout(TIMEOUT_S):
        while not condition(found := (await http.get(f"{url}/healthz")).json()):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    return found


@pytest.mark.engines
@pytest.mark.timeout(1800)
async def test_it_is_ready_when_serve_says_so_and_answers_plain_and_streamed(
    url: str, client: openai.AsyncOpenAI
) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        health = await http.get(f"{url}/healthz")
    assert (health.status_code, health.json()["status"]) == (200, "ready")
    answer = await client.chat.completions.create(model="tinymath@beam_search", messages=PROMPT, seed=1)
    assert answer.choices[0].message.content and answer.headrace["strategy"] == "beam_search"
    stream = await client.chat.completions.create(model="tinymath", messages=PROMPT, seed=1, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].headrace["strategy"] == "best_of_n"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="tinymath@nothing", messages=PROMPT)


@pytest.mark.engines
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_work(url: str, client: openai.AsyncOpenAI, stream: bool) -> None:
    async def long() -> Any:
        answer = await client.chat.completions.create(
            model="tinymath",
            messages=PROMPT,
            temperature=2,
            max_tokens=400,
            stream=stream,
            extra_body={"headrace": LONG},
        )
        return [chunk async for chunk in answer] if stream else answer

    before = await health_when(url, idle)
    leaving = asyncio.create_task(long())
    await health_when(url, lambda found: found["policy"]["running"] > 0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    after = await health_when(url, idle)
    whole = await long() and await health_when(url, idle)
    sampled = [found["policy"]["sampled_tokens"] for found in (before, after, whole)]
    assert sampled[1] - sampled[0] < sampled[2] - sampled[1]
