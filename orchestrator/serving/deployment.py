"""The endpoint on Ray Serve: one replica whose event loop holds the app, the pools and the searches."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from orchestrator.answers import open_answers
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.errors import HeadraceError, ReplicaError, UserError
from orchestrator.pools import open_pools
from orchestrator.serving.app import build_app
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.health import PoolsHealth
from orchestrator.serving.service import Pools, Service
from orchestrator.serving.warming import warm
from orchestrator.verifier.check import scores_steps

_SLOTS = 10_000  # the app bounds what waits in it; what Serve keeps waiting could not even ask for health
_UNHEALTHY_S = 60.0  # a machine that is busy loading models answers late
_FLUSH_S = 1.0  # for the last answers to leave Serve's proxy, which ends without waiting for them
_ANSWER_S = 10.0  # beyond `limits.drain_s`: for the replica to say that it has drained
_CLOSE_S = 5.0  # for the pools to close


class Endpoint:
    """What Serve and the driver ask of the replica, beside HTTP."""

    app: FastAPI

    @property
    def _service(self) -> Service:
        service: Service = self.app.state.service
        return service

    async def opened(self) -> HeadraceError | None:
        return await self._service.opened()

    async def drain(self) -> None:
        """Takes no more requests, and returns when none is in progress any more."""
        busy = self._service.num_searches > 0
        await self._service.drain()
        if busy:
            await asyncio.sleep(_FLUSH_S)

    async def check_health(self) -> None:
        """Serve replaces a replica that fails this, and so opens new pools."""
        if self._service.failure is not None:
            raise self._service.failure


@contextmanager
def running_endpoint(config: ServeConfig, strategies: Mapping[str, type]) -> Iterator[None]:
    """The endpoint, ready, on the Ray that this process is connected to; leaving drains it and takes Serve down.

    Paths in `config` must be absolute. Raises UserError and ReplicaError when it can't start.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        raise UserError("ray.address: a Ray Serve already runs on that cluster; stop it first (serve shutdown)")
    try:
        handle = _start(config, strategies)
        try:
            yield
        finally:
            with suppress(TimeoutError, RayError, RayServeException):  # a replica that is down has no requests
                handle.drain.remote().result(timeout_s=config.limits.drain_s + _ANSWER_S)
    finally:
        serve.shutdown()


def _start(config: ServeConfig, strategies: Mapping[str, type]) -> DeploymentHandle:
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
        handle = serve.run(_application(config, strategies), name="headrace", route_prefix="/", logging_config=quiet)
        failure: HeadraceError | None = handle.opened.remote().result()
    except (TimeoutError, RuntimeError, RayError, RayServeException) as error:
        raise ReplicaError(f"Ray Serve did not start: {str(error).partition(chr(10))[0]}") from error
    if failure is not None:
        raise failure
    return handle


def check_port(host: str, port: int) -> None:
    """Raises UserError when nothing can listen there. Serve itself would share the port with another Serve."""
    try:
        [(family, kind, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise UserError(f"host: can't resolve {host!r}: {error.strerror}") from None
    except OSError as error:
        raise UserError(
            f"port: can't listen on {host}:{port}: {error.strerror}; choose another with port=..."
        ) from None


def make_catalog(config: ServeConfig, strategies: Mapping[str, type]) -> Catalog:
    """Raises UserError for what no request could be served with."""
    return Catalog(
        alias=config.alias,
        default_strategy=config.default_strategy,
        strategies=strategies,
        params=config.strategies,
        has_verifier=config.verifier is not None,
        scores_steps=config.verifier is None or scores_steps(config.verifier),
        max_n=config.limits.max_n,
    )


def _application(config: ServeConfig, strategies: Mapping[str, type]) -> serve.Application:
    threads = os.environ.get("OMP_NUM_THREADS")

    def app() -> FastAPI:
        if threads is None:  # Ray sets it in its workers; the policy pool reads what the user set
            os.environ.pop("OMP_NUM_THREADS", None)
        return build_app(lambda: _service(config, strategies))

    ingress = serve.ingress(app)(Endpoint)
    deployment = serve.deployment(
        ingress,
        name="endpoint",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_SLOTS,
        health_check_timeout_s=_UNHEALTHY_S,
        graceful_shutdown_timeout_s=_CLOSE_S,
        graceful_shutdown_wait_loop_s=0.5,
    )
    return deployment.bind()


def _service(config: ServeConfig, strategies: Mapping[str, type]) -> Service:
    async def opened_pools(stack: AsyncExitStack) -> Pools:
        policy, verifier = await open_pools(stack, policy=config.policy, steps=config.steps, verifier=config.verifier)
        answers = await stack.enter_async_context(open_answers("math", AnswerFormat.parse(config.answer)))
        await warm(policy, verifier, answers)
        health = PoolsHealth(policy, verifier)
        return Pools(policy=policy, verifier=verifier, answers=answers, health=health)

    return Service(config, make_catalog(config, strategies), opened_pools)
