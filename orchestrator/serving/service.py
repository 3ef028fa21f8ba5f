"""The life of the endpoint behind its routes: pools that open, serve and fail, and the searches over them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Tracer

from orchestrator.core.errors import HeadraceError, PoolExhausted, ReplicaError
from orchestrator.core.protocols import Answers, Policy, Verifier
from orchestrator.search import SearchRuntime
from orchestrator.serving.bodies import Bodies
from orchestrator.serving.callers import Caller, Callers
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.dialects.contract import Dialect, ServingContext
from orchestrator.serving.dialects.fields import read_object
from orchestrator.serving.errors import unavailable
from orchestrator.serving.keys import Keyring
from orchestrator.serving.metrics import AskReplicas, Metrics, ReplicaStats
from orchestrator.serving.orders import Order
from orchestrator.serving.searches import Search, Searches
from orchestrator.serving.traces import Traces

log = logging.getLogger(__name__)

_ASK_S = 5.0  # for replicas to report


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether requests can be served, and what there is to say about it."""

    ready: bool
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """What searches run on. `health` and `replicas` ask the replicas."""

    policy: Policy
    verifier: Verifier | None
    answers: Answers
    health: Callable[[], Awaitable[Health]]
    replicas: AskReplicas


OpenPools = Callable[[AsyncExitStack], Awaitable[Pools]]


class Service:
    """Owner of the pools and of the searches. It answers from the start, and says so while the pools are not up."""

    def __init__(
        self,
        config: ServeConfig,
        catalog: Catalog,
        open_pools: OpenPools,
        *,
        keyring: Keyring | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`keyring`: without it there are no keys but those of a file. `tracer`: without it there are no spans."""
        self.metrics = Metrics()
        self.tracer = tracer
        self.config = config
        self.catalog = catalog
        self.callers = Callers(config.keys, keyring or Keyring(config.keys, None))
        self._open_pools = open_pools
        self.bodies = Bodies(config.limits)
        self.traces = Traces(config.traces)
        self._pools: Pools | None = None
        self._searches: Searches | None = None
        self._failure: HeadraceError | None = None  # for good
        self._opened = asyncio.Event()  # or failed
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Opens the pools in the background; leaving ends every search and closes them."""
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(self._hold_pools())
            try:
                yield
            finally:
                self._closing.set()
                if not self._opened.is_set():
                    opening.cancel()

    async def opened(self) -> HeadraceError | None:
        """When the pools are up: None; when they could not be opened: why."""
        await self._opened.wait()
        return self._failure

    @property
    def failure(self) -> HeadraceError | None:
        """Why this service will never answer again, if so."""
        return self._failure

    @property
    def num_searches(self) -> int:
        return 0 if self._searches is None else len(self._searches)

    @property
    def num_queued(self) -> int:
        return 0 if self._searches is None else self._searches.num_queued

    async def health(self) -> Health:
        if self._failure is not None:
            return Health(ready=False, detail={"status": "failed", "reason": str(self._failure)})
        if self._pools is None:
            return Health(ready=False, detail={"status": "starting"})
        health = await self._pools.health()
        stopping = self._searches is not None and self._searches.draining
        status = "stopping" if stopping else "ready" if health.ready else "down"
        detail = {"status": status, "searches": self.num_searches, "queued": self.num_queued, **health.detail}
        return Health(ready=health.ready and not stopping, detail=detail)

    async def exposed_metrics(self) -> bytes:
        """In Prometheus's text format. Replicas that do not answer count as none."""
        replicas = ReplicaStats()
        if self._pools is not None:
            with suppress(TimeoutError, ReplicaError):
                async with asyncio.timeout(_ASK_S):
                    replicas = await self._pools.replicas()
        return self.metrics.exposed(in_flight=self.num_searches, queued=self.num_queued, replicas=replicas)

    def order(self, dialect: Dialect, body: bytes, request_id: str) -> Order:
        """What a request asks for. Raises ApiError."""
        given = read_object(body)
        if self.config.log_requests:
            log.warning("request %s: %s", request_id, json.dumps(given))  # the endpoint's process logs no less
        return dialect.order(given, request_id, ServingContext(catalog=self.catalog, config=self.config))

    def check_room(self, caller: Caller) -> None:
        """Raises ApiError when no search can begin or wait, whatever is asked for."""
        self._open_searches().check_room(caller)

    async def search(self, order: Order, caller: Caller) -> list[Search]:
        """Begins a search for each problem, when it is the caller's turn. Raises ApiError when it may not ask for
        that, there are too many, or the pools are not up."""
        return await self._open_searches().start(order, caller)

    async def drain(self) -> None:
        """Takes no more requests, and returns when those in progress have their answers."""
        if self._searches is not None:
            await self._searches.drain()

    def _open_searches(self) -> Searches:
        if self._failure is not None:
            raise unavailable("the model's workers are unavailable")
        if self._searches is None:
            raise unavailable("the model is being loaded, try again later")
        return self._searches

    async def _hold_pools(self) -> None:
        """Opens and closes the pools in one task, as their contexts demand."""
        try:
            async with AsyncExitStack() as stack:
                self._pools = await self._open_pools(stack)
                self._searches = Searches(
                    runtime=SearchRuntime(
                        policy=self._pools.policy,
                        verifier=self._pools.verifier,
                        answers=self._pools.answers,
                        sampling=self.config.sampling,
                        budget=self.config.request_budget,
                    ),
                    limits=self.config.limits,
                    on_exhausted=self._exhausted,
                    on_cost=self.metrics.searched,
                    tracer=self.tracer,
                    traces=self.traces,
                )
                stack.push_async_callback(self._searches.close)
                self._opened.set()
                await self._closing.wait()
        except HeadraceError as error:
            self._failure = error
        except Exception as error:  # a fault of ours must not look like an endless start
            log.exception("the pools could not be opened")
            self._failure = HeadraceError(f"{type(error).__name__}: {error}")
        finally:
            self._opened.set()

    def _exhausted(self, error: PoolExhausted) -> None:
        self._failure = self._failure or error
