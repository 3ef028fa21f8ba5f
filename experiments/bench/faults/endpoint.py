"""An endpoint on the same pool, and a client that asks it the same again and again."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx

from experiments.running.run import Plan
from experiments.running.serve import base_url
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.deployment import running_endpoint
from strategies import STRATEGIES

_PROMPT = "Box with 5 nuts\nHow many now?"  # of no problem of the run
_ANSWER_S = 60.0
_HEALTH_S = 2.0
_PAUSE_S = 0.5


class Asker:
    """Owner of the client. An answer is wrong where it is not the first one."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[float, bool]] = []  # when it came (seconds since 1970), and whether it is right
        self.refused = 0  # asked again
        self._url = url
        self._body = {
            "model": "faults",
            "messages": [{"role": "user", "content": _PROMPT}],
            "seed": 1,
            "headrace": {"strategy": "greedy"},
        }
        self._first: str | None = None
        self._begun = asyncio.Event()

    def begin(self) -> None:
        self._begun.set()

    async def served(self) -> bool:
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(timeout=_HEALTH_S) as http:
                return (await http.get(f"{self._url}/healthz")).status_code == 200
        return False

    async def ask_forever(self) -> None:
        await self._begun.wait()
        while True:
            async with httpx.AsyncClient(timeout=_ANSWER_S) as http:
                try:
                    response = await http.post(f"{self._url}/v1/chat/completions", json=self._body)
                    response.raise_for_status()
                    text = response.json()["choices"][0]["message"]["content"]
                    self._first = text if self._first is None else self._first
                    self.answers.append((time.time(), text == self._first))
                except httpx.HTTPError:
                    self.refused += 1
            await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def asked_endpoint(plan: Plan, pool: str) -> AsyncIterator[Asker]:
    """On the Ray that this process is connected to."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = ServeConfig(
        alias="faults",
        policy=plan.policy,
        verifier=None if plan.verifier is None else plan.verifier.config,
        default_strategy="greedy",
        sampling=plan.config.sampling,
        pool=pool,
        port=port,
    )
    endpoint = running_endpoint(config, STRATEGIES)
    await asyncio.to_thread(endpoint.__enter__)
    try:
        asker = Asker(base_url(config))
        asking = asyncio.create_task(asker.ask_forever())
        try:
            yield asker
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    finally:
        await asyncio.to_thread(endpoint.__exit__, None, None, None)
