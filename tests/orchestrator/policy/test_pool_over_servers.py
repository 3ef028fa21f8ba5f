"""Facts about a pool of servers, on vLLM's own server with the tiny policy (`make engines`: it takes a minute)."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import HeadraceError
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Finish, Generation, Sampling, Segment
from orchestrator.policy import PolicyPool
from orchestrator.policy.open import open_policy
from orchestrator.search import SearchRuntime, solve
from strategies.self_consistency import SelfConsistency
from tests.fakes import PlainAnswers
from tests.waiting import until

MODEL = str(Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy")
QUESTION = "Box with {} pens\nJon sells 16\nZoe buys 6\nHow many now?"
PROBLEMS = [Problem.from_prompt(f"p{n}", QUESTION.format(n)) for n in range(30, 46)]
pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
START_S = 300.0
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        arguments = ["--model", MODEL, "--served-model-name", "tiny", "--port", str(self.port), "--host", "127.0.0.1"]
        arguments += ["--dtype", "float32", "--max-model-len", "512", "--block-size", "32", "--enforce-eager"]
        arguments += ["--enable-prompt-tokens-details", "--no-enable-chunked-prefill", "--max-num-seqs", "64"]
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
                env={**os.environ, **ENVIRONMENT},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def ready(self) -> None:
        async with httpx.AsyncClient() as client, asyncio.timeout(START_S):
            while True:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                try:
                    if (await client.get(f"{self.root}/health")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(1)

    async def counter(self, name: str) -> float:
        """Of the server itself."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.root}/metrics")).text
        return sum(float(value) for value in re.findall(rf"^vllm:{name}{{.*}} (\S+)$", text, re.MULTILINE))

    def kill(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait(timeout=30)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    started = Server(tmp_path_factory.mktemp("server") / "log")
    try:
        await started.ready()
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool(server: Server, local_ray: Path) -> AsyncIterator[PolicyPool]:
    config = PolicyConfig(engine="openai", model="tiny", urls=[f"{server.root}/v1"], tokenizer=MODEL, max_num_seqs=64)
    async with PolicyPool.open(config, StepConfig()) as opened:
        yield opened


async def written(pool: PolicyPool, requests: Sequence[Generation]) -> list[list[Segment]]:
    segments: list[list[Segment]] = [[] for _ in requests]
    async with aclosing(pool.generate(requests)) as stream:
        async for index, segment in stream:
            segments[index].append(segment)
    return segments


async def generations(pool: PolicyPool, **changes: object) -> list[Generation]:
    prompts = await pool.encode(PROBLEMS)
    settings = {"max_tokens": 100, "temperature": 1.0, "top_p": 0.95, **changes}
    return [Generation(prefix_ids=prompt, seed=seed, **settings) for seed, prompt in enumerate(prompts)]


async def test_a_server_serves_the_same_policy(pool: PolicyPool, policy_pool: PolicyPool) -> None:
    assert (pool.shape, pool.fingerprint) == (policy_pool.shape, policy_pool.fingerprint)
    assert pool.context_length == 512
    assert await pool.encode(PROBLEMS) == await policy_pool.encode(PROBLEMS)


@pytest.mark.parametrize("changes", [{}, {"until_step": True}, {"stop": ("Answer",)}, {"temperature": 0.0}])
async def test_equal_seeds_give_equal_steps_over_the_server_and_in_process(
    pool: PolicyPool, policy_pool: PolicyPool, changes: dict[str, object]
) -> None:
    there, here = [await written(p, await generations(p, **changes)) for p in (pool, policy_pool)]
    for a, b in zip(there, here, strict=True):
        assert [(s.token_ids, s.text, s.finish) for s in a] == [(s.token_ids, s.text, s.finish) for s in b]


async def test_logprobs_and_confidences_are_the_same(pool: PolicyPool, policy_pool: PolicyPool) -> None:
    there, here = [await written(p, await generations(p, logprobs=5)) for p in (pool, policy_pool)]
    for a, b in zip(there, here, strict=True):
        assert [s.logprob for s in a] == pytest.approx([s.logprob for s in b], abs=1e-3)
        for one, other in zip(a, b, strict=True):
            assert one.confidence is not None and other.confidence is not None
            assert one.confidence.tokens == pytest.approx(other.confidence.tokens, abs=1e-3)
            assert one.confidence[1:] == pytest.approx(other.confidence[1:], abs=1e-3)


async def test_samples_have_the_same_answers_and_ledger(pool: PolicyPool, policy_pool: PolicyPool) -> None:
    outcomes = []
    for policy in (pool, policy_pool):
        runtime = SearchRuntime(policy=policy, verifier=None, sampling=Sampling(max_tokens=100), answers=PlainAnswers())
        outcome = await solve(PROBLEMS[0], SelfConsistency(n=8).search, runtime.session(3), timeout_s=100)
        outcomes.append(outcome)
    there, here = outcomes
    assert [c.trajectory.text for c in there.result.candidates] == [c.trajectory.text for c in here.result.candidates]
    assert there.result.ledger.generated_tokens == here.result.ledger.generated_tokens > 0


async def test_the_prefix_cache_of_the_server_is_seen(pool: PolicyPool) -> None:
    requests = await generations(pool)
    long = [requests[0].prefix_ids * 4] * 2
    asked = [Generation(prefix_ids=prefix, max_tokens=1, seed=1, temperature=0.0, top_p=1.0) for prefix in long]
    await written(pool, asked[:1])
    [[segment]] = await written(pool, asked[1:])
    assert segment.cached_tokens >= 32


async def test_an_abort_ends_the_request_in_the_server(pool: PolicyPool, server: Server) -> None:
    before = await server.counter("generation_tokens_total")
    requests = await generations(pool, max_tokens=400, temperature=2.0) * 20  # for seconds
    stream = pool.generate(requests)
    await anext(stream)
    stream.abort(range(len(requests)))
    finishes = [segment.finish async for _, segment in stream if segment.finish is not None]
    assert finishes.count(Finish.ABORTED) > len(requests) // 2

    for _ in range(100):
        if await server.counter("num_requests_running") == 0:
            break
        await asyncio.sleep(0.1)
    assert await server.counter("num_requests_running") == 0
    assert await server.counter("generation_tokens_total") - before < 400 * len(requests) / 2
    [stats] = await pool.stats()
    assert stats["running"] == 0


async def test_its_chat_api_is_a_policy_of_whole_completions(server: Server) -> None:
    config = PolicyConfig(engine="openai", model="tiny", urls=[f"{server.root}/v1"])
    async with open_policy(config, StepConfig()) as policy:
        runtime = SearchRuntime(policy=policy, verifier=None, sampling=Sampling(max_tokens=100), answers=PlainAnswers())
        outcome = await solve(PROBLEMS[0], SelfConsistency(n=8).search, runtime.session(3), timeout_s=100)
    assert outcome.result is not None, outcome.error
    assert outcome.result.answer is not None
    assert outcome.result.ledger.generated_tokens == sum(c.trajectory.num_tokens for c in outcome.result.candidates)


async def test_a_server_that_dies_is_the_end_of_a_pool_of_one(local_ray: Path, tmp_path: Path, server: Server) -> None:
    config = PolicyConfig(
        engine="openai", model="tiny", urls=[f"{server.root}/v1"], tokenizer=MODEL, max_restarts=0, stall_timeout_s=20
    )
    async with PolicyPool.open(config, StepConfig()) as opened:
        stream = opened.generate(await generations(opened, max_tokens=400, temperature=2.0) * 40)  # for seconds
        await anext(stream)
        server.kill()
        with pytest.raises(HeadraceError, match="none of 1 replicas is left"):
            async with asyncio.timeout(120):
                async for _ in stream:
                    pass
        await until(lambda: opened.num_ready == 0)
