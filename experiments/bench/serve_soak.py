"""Whether the endpoint grows under load: clients of every kind ask it for minutes, and some of them leave.

The memory that each process alone holds is sampled every 10 s. At the end nothing may be left of the load.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import aiohttp
import psutil

from experiments.bench.core import Measured
from experiments.bench.memory import SAMPLE_S, WARM_SHARE, MemoryWatch, family
from experiments.bench.servers import Endpoint, headrace_endpoint
from experiments.bench.tiny import problems

CLIENTS = 8  # two of each kind: they keep both cores busy
NUM_PROBLEMS = 1024  # asked again and again: no cache holds them all
KINDS: Mapping[str, Mapping[str, Any]] = {
    "greedy, streamed": {"model": "tinymath@greedy", "stream": True},
    "best_of_n": {"model": "tinymath@best_of_n", "headrace": {"n": 4}},
    "beam_search, with events": {
        "model": "tinymath@beam_search",
        "stream": True,
        "headrace": {"n": 8, "beam_width": 2, "events": True},
    },
    "one that leaves": {"model": "tinymath@best_of_n", "headrace": {"n": 64}},
}
_LEAVES, _LEAVES_S = "one that leaves", (0.05, 1.0)
_ANSWER_S = 120.0
_FREE_S = 60.0


@dataclass(slots=True, kw_only=True)
class Met:
    """What clients met."""

    answers: Counter[str] = field(default_factory=Counter)  # by kind
    left: int = 0  # requests whose client left
    failures: list[str] = field(default_factory=list)


async def measure(*, minutes: float, on_repeat: Callable[[str], None]) -> Measured:
    """`minutes` of load, at least one."""
    met = Met()
    async with (
        headrace_endpoint(CLIENTS) as endpoint,
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_ANSWER_S), connector=aiohttp.TCPConnector(limit=0)
        ) as session,
    ):
        await _asked(session, endpoint, met, 30.0, lambda: None)  # what is made at first use
        memory, files = MemoryWatch(family(endpoint.pid)), await _once_idle(session, endpoint)
        met = Met()
        await _asked(session, endpoint, met, 60 * minutes, lambda: on_repeat(memory.sample()))
        left = await _once_idle(session, endpoint) - files
    on_repeat(f"answers: {met.answers}; left: {met.left}; failures: {met.failures[:3]}")
    return Measured(
        **memory.ratios(),
        baseline="the memory of all processes after the warm-up; at the end, by the line through the samples",
        goal="an interval that holds 1, no failure, and nothing left of the load",
        settings={"policy": "tiny", "minutes": minutes, "clients": CLIENTS, "warm_share": WARM_SHARE},
        details={
            "answers": dict(met.answers),
            "clients_that_left": met.left,
            "failures": met.failures,
            "open_files_more": left,
            "all_mib_per_h": asdict(memory.total),
            "mib_per_h": {who: asdict(each) for who, each in memory.by_process.items()},
            "processes": memory.num_processes,
        },
    )


async def _asked(
    session: aiohttp.ClientSession, endpoint: Endpoint, met: Met, seconds: float, sample: Callable[[], None]
) -> None:
    """Clients ask for so long, one request after another; `sample` is called in between."""
    until = time.monotonic() + seconds
    kinds = list(KINDS)
    async with asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            tasks.create_task(_client(session, endpoint, met, kinds[number % len(kinds)], number, until))
        while time.monotonic() < until:
            await asyncio.to_thread(sample)
            await asyncio.sleep(SAMPLE_S)


async def _client(
    session: aiohttp.ClientSession, endpoint: Endpoint, met: Met, kind: str, number: int, until: float
) -> None:
    rng, questions = random.Random(number), problems(NUM_PROBLEMS)
    for turn in count():
        if time.monotonic() >= until:
            return
        problem = questions[(CLIENTS * turn + number) % len(questions)]
        messages = [{"role": message.role, "content": message.content} for message in problem.messages]
        patience_s = rng.uniform(*_LEAVES_S) if kind == _LEAVES else None
        try:
            async with asyncio.timeout(patience_s):
                async with session.post(endpoint.chat, json={**KINDS[kind], "messages": messages}) as answer:
                    text = await answer.text()
        except TimeoutError:
            met.left += 1
            continue
        except aiohttp.ClientError as error:
            met.failures.append(f"{kind}: {error!r}")
            continue
        if answer.status != 200 or '"error"' in text:
            met.failures.append(f"{kind}: {answer.status} {text[-500:]}")
        met.answers[kind] += 1


async def _once_idle(session: aiohttp.ClientSession, endpoint: Endpoint) -> int:
    """Files that its processes have open, once it searches nothing. Raises TimeoutError where it goes on."""
    async with asyncio.timeout(_FREE_S):
        while True:
            async with session.get(f"{endpoint.url}/health") as answer:
                health = await answer.json()
            if not health["searches"] and not health["queued"] and not health["policy"]["running"]:
                break
            await asyncio.sleep(1.0)
    files = 0
    for process in family(endpoint.pid):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            files += process.num_fds()
    return files
