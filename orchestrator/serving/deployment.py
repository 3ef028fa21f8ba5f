"""The endpoint on Ray Serve: one replica whose event loop holds the app, the pools and the searches."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from orchestrator.answers import open_answers
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.errors import HeadraceError, ReplicaError, UserError
from orchestrator.core.nouns import Problem
from orchestrator.pools import open_pools
from orchestrator.serving.app import build_app
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.service import Health, Pools, Service
from orchestrator.verifier.check import scores_steps

_SPARE_REQUESTS = 64  # beyond the cap on searches: requests that are refused, health checks
_HEALTH_TIMEOUT_S = 5.0
_UNHEALTHY_S = 60.0  # a machine that is busy loading models answers late
_DRAIN_S = 5.0  # for requests in progress when the server stops


class Endpoint:
    """What Serve and the driver ask of the replica, beside HTTP."""

    app: FastAPI

    @property
    def _service(self) -> Service:
        service: Service = self.app.state.service
        return service

    async def opened(self) -> HeadraceError | None:
        return await self._service.opened()

    async def check_health(self) -> None:
        """Serve replaces a replica that fails this, and so opens new pools."""
        if self._service.failure is not None:
            raise self._service.failure


@contextmanager
def running_endpoint(config: ServeConfig, strategies: Mapping[str, type]) -> Iterator[None]:
    """The endpoint, ready, on the Ray that this process is connected to; leaving takes Serve down.

    Paths in `config` must be absolute. Raises UserError and ReplicaError when it can't start.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        raise UserError("ray.address: a Ray Serve already runs on that cluster; stop it first (serve shutdown)")
    try:
        _start(config, strategies)
        yield
    finally:
        serve.shutdown()


def _start(config: ServeConfig, strategies: Mapping[str, type]) -> None:
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
        handle = serve.run(_application(config, strategies), name="headrace", route_prefix="/", logging_config=quiet)
        failure: HeadraceError | None = handle.opened.remote().result()
    except (TimeoutError, RuntimeError, RayError, RayServeException) as error:
        raise ReplicaError(f"Ray Serve did not start: {str(error).partition(chr(10))[0]}") from error
    if failure is not None:
        raise failure


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
        max_ongoing_requests=config.limits.max_concurrent + _SPARE_REQUESTS,
        health_check_timeout_s=_UNHEALTHY_S,
        graceful_shutdown_timeout_s=_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
    )
    return deployment.bind()


def _service(config: ServeConfig, strategies: Mapping[str, type]) -> Service:
    async def opened_pools(stack: AsyncExitStack) -> Pools:
        policy, verifier = await open_pools(stack, policy=config.policy, steps=config.steps, verifier=config.verifier)

        async def health() -> Health:
            try:
                async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                    writing = await policy.stats()
            except (TimeoutError, ReplicaError):
                writing = []
            judging = 0 if verifier is None else verifier.num_ready
            counts = {name: sum(stats[name] for stats in writing) for name in ("running", "sampled_tokens")}
            detail = {
                "policy": {"replicas": len(writing), **counts},
                "verifier": None if verifier is None else {"replicas": judging},
            }
            return Health(ready=bool(writing) and (verifier is None or judging > 0), detail=detail)

        await policy.encode([Problem.from_prompt("start", "ready?")])  # a model that takes no messages fails here
        answers = await stack.enter_async_context(open_answers("math", AnswerFormat.parse(config.answer)))
        return Pools(policy=policy, verifier=verifier, answers=answers, health=health)

    return Service(config, make_catalog(config, strategies), opened_pools)
