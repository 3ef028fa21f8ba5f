"""The endpoint on a Ray Serve of its own: one replica whose event loop holds the HTTP server, the pools and the
searches. `proxied` is the endpoint behind Serve's proxies."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from orchestrator.answers import open_answers
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.errors import HeadraceError, ReplicaError, UserError
from orchestrator.core.protocols import Strategy
from orchestrator.policy.resolve import is_chat_api
from orchestrator.pools.open import open_pools
from orchestrator.serving.app import build_app
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.errors import ApiError
from orchestrator.serving.health import PoolsHealth
from orchestrator.serving.http_server import HttpServer
from orchestrator.serving.keys import Keyring
from orchestrator.serving.service import Pools, Service
from orchestrator.serving.spans import configured_tracer
from orchestrator.serving.surroundings import Surroundings
from orchestrator.serving.warming import warm
from orchestrator.verifier.resolve import resolve

QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
UNHEALTHY_S = 60.0  # a machine that is busy loading models answers late
ANSWER_S = 20.0  # beyond `limits.drain_s`: for the last answers to leave and the pools to close
_CLOSE_S = 5.0  # for a replica to go that has stopped
_A_LITTLE = 0.001  # of a node's own resource


class Endpoint:
    """The replica: the app behind an HTTP server of its own, since Serve's proxy takes longer for a request than we do.

    Serve starts it, asks for its health, and replaces it when that fails or it dies.
    """

    def __init__(self, config: ServeConfig, strategies: Mapping[str, type[Strategy]], here: Surroundings) -> None:
        self._service = make_service(config, strategies, here)
        self._server = HttpServer(
            build_app(self._service), host=config.host, port=config.port, head_timeout_s=config.limits.body_timeout_s
        )
        self._failure: HeadraceError | None = None
        try:
            self._server.start()
        except UserError as error:
            self._failure = error

    async def opened(self) -> HeadraceError | None:
        """When the endpoint is ready: None; when it can't be: why."""
        return self._failure or await self._service.opened()

    async def stop(self) -> None:
        """Takes no more requests, and returns when those in progress have been answered and the pools are closed."""
        await self._service.drain()
        await self._server.stop()

    async def check_health(self) -> None:
        """Serve replaces a replica that fails this, and so opens new pools."""
        if failure := self._failure or self._service.failure:
            raise failure
        if self._server.ended:
            raise ReplicaError("the HTTP server has ended")


@contextmanager
def running_endpoint(config: ServeConfig, strategies: Mapping[str, type[Strategy]]) -> Iterator[None]:
    """The endpoint, ready, on the Ray that this process is connected to; leaving drains it and takes Serve down.

    Paths in `config` must be absolute. Raises UserError and ReplicaError when it can't start.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it warns of a replica that is busy loading models
    try:
        handle = _start(config, strategies)
        try:
            yield
        finally:
            with suppress(TimeoutError, RayError, RayServeException):  # a replica that is down has no requests
                handle.stop.remote().result(timeout_s=config.limits.drain_s + ANSWER_S)
    finally:
        serve.shutdown()


def _start(config: ServeConfig, strategies: Mapping[str, type[Strategy]]) -> DeploymentHandle:
    try:
        serve.start(proxy_location="Disabled")
        handle = serve.run(_application(config, strategies), name="headrace", route_prefix=None, logging_config=QUIET)
        failure: HeadraceError | None = handle.opened.remote().result()
    except (TimeoutError, RuntimeError, RayError, RayServeException) as error:
        raise ReplicaError(f"Ray Serve did not start: {str(error).partition(chr(10))[0]}") from error
    if failure is not None:
        raise failure
    return handle


def make_catalog(config: ServeConfig, strategies: Mapping[str, type[Strategy]]) -> Catalog:
    """Raises UserError for what no request could be served with."""
    catalog = Catalog(
        alias=config.alias,
        default_strategy=config.default_strategy,
        strategies=strategies,
        params=config.strategies,
        has_verifier=config.verifier is not None,
        scores_steps=config.verifier is None or resolve(config.verifier).scores_steps,
        tells_tokens=not is_chat_api(config.policy),
        max_n=config.limits.max_n,
    )
    _check_classes(config, catalog)
    for name, effort in config.efforts.items():
        if effort.strategy is not None:
            try:
                catalog.resolve(config.alias, {"strategy": effort.strategy, **effort.params})
            except ApiError as error:
                raise UserError(f"efforts.{name}: {error}") from None
    return catalog


def _check_classes(config: ServeConfig, catalog: Catalog) -> None:
    """Raises UserError where a class of keys names what this server does not have."""
    served = [model.partition("@")[2] for model in catalog.models[1:]]
    for name, allowed in config.keys.classes.items():
        for field, named, known in (
            ("strategies", allowed.strategies, served),
            ("efforts", allowed.efforts, list(config.efforts)),
        ):
            for one in named or ():
                if one not in known:
                    wanted = ", ".join(known) or "none"
                    raise UserError(f"keys.classes.{name}.{field}: got {one!r}, wanted of {wanted}")


def _application(config: ServeConfig, strategies: Mapping[str, type[Strategy]]) -> serve.Application:
    deployment = serve.deployment(
        Endpoint,
        name="endpoint",
        ray_actor_options={"num_cpus": 0, "resources": {_this_node(): _A_LITTLE}},
        health_check_timeout_s=UNHEALTHY_S,
        graceful_shutdown_timeout_s=_CLOSE_S,
        graceful_shutdown_wait_loop_s=0.5,
    )
    return deployment.bind(config, strategies, Surroundings.here())


def make_service(config: ServeConfig, strategies: Mapping[str, type[Strategy]], here: Surroundings) -> Service:
    here.apply()
    keyring = Keyring(config.keys, here.keys)
    tracer = configured_tracer(here.tracing)
    catalog = make_catalog(config, strategies)
    return Service(config, catalog, partial(_open, config), keyring=keyring, tracer=tracer)


def _this_node() -> str:
    """The resource that this node alone has: the endpoint listens where it was started."""
    here = ray.get_runtime_context().get_node_id()
    [address] = [node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == here]
    return f"node:{address}"


async def _open(config: ServeConfig, stack: AsyncExitStack) -> Pools:
    judge = None if config.verifier is None else resolve(config.verifier)
    policy, verifier = await open_pools(
        stack, policy=config.policy, steps=config.steps, verifier=judge, pool=config.pool
    )
    answers = await stack.enter_async_context(open_answers("math", AnswerFormat.parse(config.answer)))
    await warm(policy, verifier, answers, logprobs=not is_chat_api(config.policy))
    health = PoolsHealth(policy, verifier)
    return Pools(policy=policy, verifier=verifier, answers=answers, health=health, replicas=health.replicas)
