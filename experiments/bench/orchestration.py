"""What pools, sessions and Ray cost: best-of-N through them against the bare engine, scoring off.

The bare engine is vLLM's AsyncLLM in a process of its own with the same options and threads and nothing of ours, given
the same prompts, seeds and token limits all at once and asked for whole results only.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from typing import Any

from experiments.bench.core import Measured, interleave, ratio_of, spread
from experiments.bench.subject import Subject
from orchestrator.cluster import connected
from orchestrator.core.config import PolicyConfig, RayConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Sampling
from orchestrator.core.seeds import derive_seed
from orchestrator.policy import PolicyPool

N = 16
Request = tuple[tuple[int, ...], int]  # prompt ids and seed


async def measure(subject: Subject, *, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    asked = subject.problems(subject.num_sampled, 0)
    with connected(RayConfig(), replicas=1):
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(PolicyPool.open(subject.policy, subject.steps))
            bare = BareEngine(subject.policy, subject.sampling)
            stack.callback(bare.stop)
            await asyncio.to_thread(bare.start)
            prompts = await pool.encode(asked)
            tokens: dict[str, list[int]] = {"pools": [], "bare engine": []}

            async def through_pools(repeat: int) -> float:
                began = time.monotonic()
                generated = await asyncio.gather(*(_sample(subject, pool, problem, repeat) for problem in asked))
                tokens["pools"].append(sum(generated))
                return sum(generated) / (time.monotonic() - began)

            async def through_bare_engine(repeat: int) -> float:
                requests = [
                    (prompt, derive_seed(repeat, problem.id, (child,)))
                    for prompt, problem in zip(prompts, asked, strict=True)
                    for child in range(N)
                ]
                generated, seconds = await asyncio.to_thread(bare.run, requests)
                tokens["bare engine"].append(generated)
                return generated / seconds

            await through_pools(-1)  # both warm, with the prompts in their caches
            await through_bare_engine(-1)
            tokens = {"pools": [], "bare engine": []}
            variants = {"pools": through_pools, "bare engine": through_bare_engine}
            speeds = await interleave(repeats, variants, on_repeat)
    return Measured(
        **ratio_of(speeds["pools"], speeds["bare engine"]),
        baseline="vLLM AsyncLLM alone in a process, same options, prompts, seeds and token limits; tokens per second",
        goal=subject.goals["orchestration"],
        settings={
            "policy": subject.name,
            "n": N,
            "problems": subject.num_sampled,
            "repeats": repeats,
            "max_tokens": subject.sampling.max_tokens,
        },
        details={
            "tokens_per_s": {name: spread(values) for name, values in speeds.items()},
            "tokens": tokens,
        },
    )


async def _sample(subject: Subject, pool: PolicyPool, problem: Problem, seed: int) -> int:
    async with subject.runtime(pool, None).session(seed) as session:
        await session.rollout([await session.start(problem)], N, scored=False)
    return session.ledger.generated_tokens


class BareEngine:
    """Owner of the process that holds the engine."""

    def __init__(self, config: PolicyConfig, sampling: Sampling) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, sampling), daemon=False)

    def start(self) -> None:
        """Takes tens of seconds."""
        self._process.start()
        self._receive()

    def stop(self) -> None:
        self._ours.send(None)
        self._process.join(timeout=20)
        self._process.kill()

    def run(self, requests: Sequence[Request]) -> tuple[int, float]:
        """Tokens and seconds."""
        self._ours.send(list(requests))
        answer: tuple[int, float] = self._receive()
        return answer

    def _receive(self) -> Any:
        if not self._ours.poll(600):
            raise TimeoutError("the bare engine did not answer within 600 s")
        return self._ours.recv()


def _serve(connection: Connection, config: PolicyConfig, sampling: Sampling) -> None:
    asyncio.run(_serve_requests(connection, config, sampling))
    os._exit(0)  # the engine is ended: an interpreter that ends it once more prints an error of vLLM's


async def _serve_requests(connection: Connection, config: PolicyConfig, sampling: Sampling) -> None:
    from orchestrator.policy.engines.vllm import engine_args, prepare_process

    prepare_process(config.model, num_threads=1)
    args = engine_args(config)

    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(args)

    async def sample(name: str, prompt_ids: Sequence[int], seed: int) -> int:
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed,
            max_tokens=sampling.max_tokens,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async for output in engine.generate(tokens_input(list(prompt_ids)), params, name):
            sampled: int = len(output.outputs[0].token_ids)
        return sampled

    connection.send("ready")
    while (requests := await asyncio.to_thread(connection.recv)) is not None:
        began = time.monotonic()
        counts = await asyncio.gather(*(sample(str(i), ids, seed) for i, (ids, seed) in enumerate(requests)))
        connection.send((sum(counts), time.monotonic() - began))
    engine.shutdown(timeout=5.0)
