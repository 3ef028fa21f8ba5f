"""The endpoint behind Ray Serve's own proxies: in several processes, beside other applications, or as Serve's own
configuration files deploy it. Engines are then best kept by a named pool, so that a process begins within seconds."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.core.protocols import Strategy
from orchestrator.serving.app import build_app
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.deployment import ANSWER_S, QUIET, UNHEALTHY_S, make_service
from orchestrator.serving.surroundings import Surroundings

_OTHER_REQUESTS = 100  # beside searches and those that wait: looks at its health, and requests that it refuses
_HEALTH_S = 1.0  # between two looks at a replica: so soon another one is started for one that died
_LATER_S = 60.0  # the proxy's limit of a request comes so long after the endpoint's own


@serve.ingress()
class ProxiedEndpoint:
    """A replica. Serve runs the app in its event loop, and ends the app's lifespan with it."""

    def __init__(self, config: ServeConfig, strategies: Mapping[str, type[Strategy]], here: Surroundings) -> None:
        self._service = make_service(config, strategies, here)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._service)

    async def check_health(self) -> None:
        """Serve waits for this before it sends requests, and replaces a replica that fails it."""
        if failure := await self._service.opened():
            raise failure


def serve_runs() -> bool:
    """Whether a Ray Serve runs on the Ray that this process is connected to."""
    found = serve.status()
    return bool(found.proxies or found.applications)


def proxied_application(config: ServeConfig, strategies: Mapping[str, type[Strategy]]) -> serve.Application:
    """The endpoint as a Serve application. `host` and `port` are the proxies'. Paths in `config` must be absolute on
    every node."""
    scale, limits = config.application, config.limits
    number: dict[str, object] = {"num_replicas": scale.replicas}
    if scale.max_replicas is not None:
        number = {
            "num_replicas": None,
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scale.replicas,
                max_replicas=scale.max_replicas,
                target_ongoing_requests=limits.max_concurrent,
            ),
        }
    deployment = serve.deployment(
        ProxiedEndpoint,
        name="endpoint",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=limits.max_concurrent + limits.max_queued + _OTHER_REQUESTS,
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=UNHEALTHY_S,
        graceful_shutdown_timeout_s=limits.drain_s + ANSWER_S,
        graceful_shutdown_wait_loop_s=0.5,
        **number,
    )
    return deployment.bind(config, strategies, Surroundings.here())


def http_options(config: ServeConfig) -> dict[str, object]:
    """Of the proxies of a Serve that is started for the endpoint."""
    timeout_s = config.limits.queue_timeout_s + config.limits.timeout_s + _LATER_S
    return {"host": config.host, "port": config.port, "request_timeout_s": timeout_s}


@contextmanager
def running_application(config: ServeConfig, strategies: Mapping[str, type[Strategy]]) -> Iterator[str]:
    """The endpoint, ready, behind the proxies of the Serve that runs on this Ray, or of one that is started: yields its
    URL. Leaving ends the application, when its requests have ended or `limits.drain_s` is over, and a Serve that was
    started for it. Other applications are left alone. Raises UserError, ReplicaError."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    own = config.application
    beside = serve_runs()
    if beside:
        _check_free(own.name, own.route_prefix)
    try:
        try:
            if not beside:
                serve.start(proxy_location="HeadOnly", http_options=http_options(config))
            serve.run(
                proxied_application(config, strategies),
                name=own.name,
                route_prefix=own.route_prefix,
                logging_config=QUIET,
            )
        except (TimeoutError, RuntimeError, RayError, RayServeException) as error:
            raise ReplicaError(f"Ray Serve did not start: {_told(own.name) or str(error).splitlines()[0]}") from error
        yield _url(own.route_prefix)
    finally:
        with suppress(TimeoutError, RuntimeError, RayError, RayServeException):
            serve.delete(own.name)
        if not beside:
            serve.shutdown()


def _check_free(name: str, prefix: str) -> None:
    """Raises UserError where another application has the name or the prefix."""
    details = _get_global_client().get_serve_details()["applications"]
    for taken, found in details.items():
        if taken == name:
            raise UserError(f"application.name: {name!r} already runs on that Ray Serve; choose another")
        if found.get("route_prefix") == prefix:
            raise UserError(f"application.route_prefix: {prefix} is {taken!r}'s on that Ray Serve; choose another")


def _told(name: str) -> str:
    """What Serve says of the application, in one line."""
    found = serve.status().applications.get(name)
    return "" if found is None else " ".join(found.message.split())[-500:]


def _url(prefix: str) -> str:
    found = _get_global_client().http_config
    host = f"[{found.host}]" if ":" in found.host else found.host
    return f"http://{host}:{found.port}{found.root_path}{prefix.rstrip('/')}"
