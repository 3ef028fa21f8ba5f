"""The app over fakes, in this event loop: a client, raw connections that may break, and a bounded wait."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from opentelemetry.trace import Tracer

from orchestrator.core.config import PolicyConfig
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Sampling
from orchestrator.serving.app import build_app
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import Limits, ServeConfig
from orchestrator.serving.key_classes import KeysConfig
from orchestrator.serving.keys import Keyring
from orchestrator.serving.metrics import ReplicaStats
from orchestrator.serving.service import Health, OpenPools, Pools, Service
from strategies import STRATEGIES
from tests.fakes import ANSWERS, ScriptedPolicy, TableVerifier

TIMEOUT_S = 20.0


def endpoint(
    policy: ScriptedPolicy,
    verifier: TableVerifier | None = None,
    *,
    limits: Limits | None = None,
    open_pools: OpenPools | None = None,
    ready: bool = True,
    keep_alive_s: float = 10.0,
    budget: Budget | None = None,
    keys: KeysConfig | None = None,
    variable: str | None = None,
    tracer: Tracer | None = None,
    **more: Any,
) -> FastAPI:
    """The app, not yet running. `variable` holds keys, as the environment's does; `more` is configuration."""
    config = ServeConfig(
        alias="tiny",
        policy=PolicyConfig(model="tiny"),
        default_strategy="best_of_n" if verifier else "greedy",
        strategies={"best_of_n": {"n": 2}},
        sampling=Sampling(max_tokens=1000),
        limits=limits or Limits(),
        keep_alive_s=keep_alive_s,
        budget=budget or Budget(),
        keys=keys or KeysConfig(),
        **more,
    )
    catalog = Catalog(
        alias=config.alias,
        default_strategy=config.default_strategy,
        strategies=STRATEGIES,
        params=config.strategies,
        has_verifier=verifier is not None,
        max_n=config.limits.max_n,
    )

    async def health() -> Health:
        return Health(ready=ready, detail={})

    async def replicas() -> ReplicaStats:
        stats = {"epoch": 1, "running": 2, "waiting": 3, "preemptions": 4, "states": 5, "slots": 6}
        return ReplicaStats(policy=[stats, stats], verifier=[stats] if verifier else ())

    async def fakes(_: AsyncExitStack) -> Pools:
        return Pools(policy=policy, verifier=verifier, answers=ANSWERS, health=health, replicas=replicas)

    service = Service(config, catalog, open_pools or fakes, keyring=Keyring(config.keys, variable), tracer=tracer)
    app = build_app(service)
    app.state.service = service  # for the tests
    return app


@asynccontextmanager
async def client_of(app: FastAPI, *, opened: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app while it runs; `opened` waits for the pools first."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        if opened:
            await app.state.service.opened()
        yield http


def chat(**fields: Any) -> dict[str, Any]:
    """A request's body."""
    return {"model": "tiny", "messages": [{"role": "user", "content": "Q:"}], **fields}


class Connection:
    """One raw request for a completion, whose client may leave before the answer."""

    def __init__(self, app: FastAPI, body: dict[str, Any], *, whole: bool = True) -> None:
        """Not `whole`: the rest of the body never comes."""
        self._received = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": not whole}]
        self._left = asyncio.Event()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    @property
    def read(self) -> bool:
        """Whether what was sent has been read."""
        return not self._received

    def leave(self) -> None:
        self._left.set()

    async def status(self) -> int:
        """Of the response, which must not have been read."""
        async with asyncio.timeout(TIMEOUT_S):
            return int((await self.sent.get())["status"])

    async def next_text(self) -> str:
        """The next piece of the response's body."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message = await self.sent.get()
                if message["type"] == "http.response.body":
                    return str(message["body"], "utf-8")

    async def _send(self, message: dict[str, Any]) -> None:
        await self.sent.put(message)

    async def _receive(self) -> dict[str, Any]:
        if self._received:
            return self._received.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}


def num_searches(app: FastAPI) -> int:
    service: Service = app.state.service
    return service.num_searches
