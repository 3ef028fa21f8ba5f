"""A pool of real actors that grows and shrinks with its work, over a scripted server, so that no engine must load."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Generation
from orchestrator.policy import PolicyPool
from orchestrator.replicas.scaling import Scaling
from tests.orchestrator.policy.engines.scripted_server import ScriptedServer, scripted_server

MODEL = str(Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy")
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)
TEXT = "3 + 4 = 7\n\n7 + 1 = 8\n\nAnswer: 8"
PROBLEM = Problem.from_prompt("p", "Box with 3 pens")
QUICK = Scaling(least=1, most=2, up_after_s=0.5, down_after_s=2.0, drain_timeout_s=60.0)
pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(300)]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server(TOKENIZER, TEXT) as scripted:
        scripted.pause_s = 0.05
        yield scripted


async def written(pool: PolicyPool, seed: int) -> str:
    [prompt] = await pool.encode([PROBLEM])
    request = Generation(prefix_ids=prompt, max_tokens=100, seed=seed, temperature=1.0, top_p=1.0)
    async with aclosing(pool.generate([request])) as segments:
        return "".join([segment.text async for _, segment in segments])


async def test_replicas_come_with_waiting_work_and_go_without_it_and_no_request_is_lost(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.policy.blueprint.scaling_of", lambda config: QUICK)
    config = PolicyConfig(
        engine="openai",
        model="m",
        urls=[server.url] * 2,
        min_replicas=1,
        max_replicas=2,
        tokenizer=MODEL,
        max_num_seqs=2,
    )
    async with PolicyPool.open(config, StepConfig()) as pool:
        assert pool.num_ready == 1

        async def many(number: int) -> list[str]:
            """One request after the other while there is one replica, and one more."""
            texts = []
            while pool.num_ready == 1:
                texts.append(await written(pool, number))
            return [*texts, await written(pool, number)]

        async with asyncio.timeout(120):
            texts = await asyncio.gather(*map(many, range(8)))
        assert pool.num_ready == 2 and {text for own in texts for text in own} == {TEXT}
        later: list[str] = []
        while pool.num_ready == 2:  # one request after the other is work for one replica
            later.append(await asyncio.wait_for(written(pool, 0), 60))
        assert set(later) == {TEXT}
        assert await written(pool, 0) == TEXT
