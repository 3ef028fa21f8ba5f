"""What the endpoint costs: requests a second and latencies as more clients ask, beside vLLM's own server.

Both have the same engine with the same arguments and one thread. They run at the same time and are asked in turn.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from statistics import quantiles
from typing import Any

import aiohttp

from experiments.bench.core import Measured, interleave, ratio_of, spread
from experiments.bench.servers import headrace_endpoint, vllm_endpoint
from experiments.bench.tiny import TINY, problems
from experiments.bench.vllm_server import NAME
from orchestrator.core.errors import ReplicaError

LEVELS = (1, 4, 16, 64, 128)
"""Clients that ask at the same time. The last ones saturate the tiny pair."""
N = 4  # of best_of_n
GOAL = ">= 0.8 (greedy, at saturation); p50 with one client <= 1.3 times vLLM's"
_ROUNDS = 6  # answers that each client gets in a repeat
_LEAST = 32  # answers of a repeat
_ANSWER_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A kind of requests and where they go."""

    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What so many clients met in one repeat."""

    requests_per_s: float
    p50_s: float
    p99_s: float


async def measure(*, repeats: int, on_repeat: Callable[[str], None], levels: Sequence[int] = LEVELS) -> Measured:
    async with AsyncExitStack() as stack:
        vllm, own = await asyncio.gather(
            stack.enter_async_context(vllm_endpoint()), stack.enter_async_context(headrace_endpoint(max(levels)))
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_ANSWER_S), connector=aiohttp.TCPConnector(limit=0)
            )
        )
        asked = {
            "vllm": Asked(url=vllm.chat, body={"model": NAME, "temperature": 0.0}),
            "greedy": Asked(url=own.chat, body={"model": "tinymath@greedy"}),
            "best_of_n": Asked(url=own.chat, body={"model": "tinymath@best_of_n", "headrace": {"n": N}}),
        }
        for kind in asked.values():
            await _level(session, kind, min(16, max(levels)), -1)  # what is made at first use
        found: dict[tuple[str, int], list[Level]] = {(name, clients): [] for name in asked for clients in levels}

        async def one(name: str, clients: int, repeat: int) -> float:
            level = await _level(session, asked[name], clients, repeat)
            found[name, clients].append(level)
            return level.requests_per_s

        for clients in levels:
            variants = {name: partial(one, name, clients) for name in asked}
            await interleave(repeats, variants, partial(_say, on_repeat, clients))
    return _measured(found, levels, repeats)


def _say(on_repeat: Callable[[str], None], clients: int, said: str) -> None:
    on_repeat(f"{clients} clients, {said}")


def _measured(found: Mapping[tuple[str, int], Sequence[Level]], levels: Sequence[int], repeats: int) -> Measured:
    """Saturation is the most requests a second, at whatever level, of each repeat."""
    names = list(dict.fromkeys(name for name, _ in found))
    most = {
        name: [max(found[name, clients][repeat].requests_per_s for clients in levels) for repeat in range(repeats)]
        for name in names
    }
    first = min(levels)
    p50 = {name: [level.p50_s for level in found[name, first]] for name in names}
    return Measured(
        **ratio_of(most["greedy"], most["vllm"]),
        baseline="vLLM's own OpenAI server with the same engine arguments; requests/s at saturation, greedy, n=1",
        goal=GOAL,
        settings={"policy": "tiny", "repeats": repeats, "clients": list(levels), "n": N},
        details={
            "saturation_requests_per_s": {name: spread(values) for name, values in most.items()},
            "p50_ratio_at_first_level": {name: ratio_of(p50[name], p50["vllm"]) for name in names if name != "vllm"},
            "levels": {
                name: {
                    str(clients): {
                        figure: spread([getattr(level, figure) for level in found[name, clients]])
                        for figure in ("requests_per_s", "p50_s", "p99_s")
                    }
                    for clients in levels
                }
                for name in names
            },
        },
    )


async def _level(session: aiohttp.ClientSession, asked: Asked, clients: int, repeat: int) -> Level:
    """Each client asks for one answer after another. Each repeat has its own questions, the same for all."""
    num = max(_LEAST, _ROUNDS * clients)
    questions = iter(problems(num, first=(repeat + 1) * num))
    seconds: list[float] = []

    async def ask() -> None:
        for problem in questions:
            messages = [{"role": message.role, "content": message.content} for message in problem.messages]
            body = {**asked.body, "messages": messages, "max_tokens": TINY.sampling.max_tokens}
            began = time.monotonic()
            async with session.post(asked.url, json=body) as answer:
                text = await answer.text()
            if answer.status != 200:
                raise ReplicaError(f"bench: {asked.body['model']} answered {answer.status}: {text[:500]}")
            seconds.append(time.monotonic() - began)

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(ask())
    return level_of(seconds, time.monotonic() - began)


def level_of(seconds: Sequence[float], wall_s: float) -> Level:
    """Of the latencies of a repeat that took so long."""
    percentiles = quantiles(seconds, n=100, method="inclusive")
    return Level(requests_per_s=len(seconds) / wall_s, p50_s=percentiles[49], p99_s=percentiles[98])
