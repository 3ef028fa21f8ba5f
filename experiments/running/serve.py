"""Composition of `headrace serve`: one YAML file to a running endpoint, everything cheap checked first.

`app` is the same endpoint for Serve's own configuration files, as KubeRay's RayService takes them.
"""

import json
import os
import shlex
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf
from ray.serve import Application
from rich.console import Console
from rich.markup import escape

from experiments.config import load_yaml, resolve_path
from orchestrator.cluster import connected
from orchestrator.core.config import most_replicas
from orchestrator.core.errors import UserError
from orchestrator.policy.resolve import check_sampling, resolve_policy
from orchestrator.pools.record import ray_of
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.deployment import make_catalog, running_endpoint
from orchestrator.serving.exposure import check_keys, is_loopback
from orchestrator.serving.http_server import listen
from orchestrator.serving.keys import VARIABLE
from orchestrator.serving.proxied import http_options, proxied_application, running_application, serve_runs
from orchestrator.verifier.check import check_budgets, check_verifier
from orchestrator.verifier.resolve import resolve
from strategies import STRATEGIES

_BY_PROXIES = "Serve's proxies may be reached by other machines"


def app(args: Mapping[str, Any]) -> Application:
    """Import path `experiments.running.serve:app`. `args`: `config`, a YAML file that every node has, and `overrides`.

    Raises UserError, as Serve's `DEPLOY_FAILED` then says.
    """
    if not {"config"} <= args.keys() <= {"config", "overrides"}:
        raise UserError(f"args: wanted config, and overrides or not, got {', '.join(args) or 'none'}")
    config = _checked(Path(args["config"]), list(args.get("overrides", ())))
    check_keys(config, os.environ.get(VARIABLE), reachable=_BY_PROXIES)
    return proxied_application(config, STRATEGIES)


def plan_serving(config_path: Path, overrides: list[str]) -> ServeConfig:
    """Reads and checks the configuration, the checkpoints' outsides and the port. Raises UserError."""
    config = _checked(config_path, overrides)
    check_keys(config, os.environ.get(VARIABLE))
    if config.ray.address is None and config.pool is None:  # else it may be a proxy that already runs
        listen(config.host, config.port).close()
    return config


def _checked(config_path: Path, overrides: list[str]) -> ServeConfig:
    config, _ = load_yaml(config_path, ServeConfig, overrides)
    make_catalog(config, STRATEGIES)
    policy = resolve_policy(config.policy, resolve_path)
    check_sampling(policy, config.sampling)
    verifier = None if config.verifier is None else resolve(config.verifier, resolve_path, answer=config.answer)
    if verifier is not None:
        check_verifier(verifier)
        check_budgets(verifier, [config.budget])
    keys = config.keys
    if keys.file is not None:
        keys = replace(keys, file=str(Path(keys.file).absolute()))
    return replace(config, policy=policy, verifier=None if verifier is None else verifier.config, keys=keys)


def serve(config_path: Path, overrides: list[str], console: Console) -> None:
    """Serves until Ctrl-C or SIGTERM. Raises UserError, ReplicaError."""
    config = plan_serving(config_path, overrides)
    replicas = most_replicas(config.policy)
    if config.verifier is not None:
        replicas += resolve(config.verifier).num_actors(config.policy.model)
    with suppress(KeyboardInterrupt):
        with (
            console.status("starting Ray") as status,
            connected(ray_of(config.pool, config.ray), replicas),
            _sigterm_interrupts(),
        ):
            status.update("starting the policy and the verifier" if config.verifier else "starting the policy")
            with _running(config) as url:
                with suppress(KeyboardInterrupt):
                    status.stop()
                    console.print(_welcome(config, url), highlight=False, soft_wrap=True)
                    threading.Event().wait()
                console.print(f"stopping: requests in progress have {config.limits.drain_s:g} s (Ctrl-C ends them now)")
    console.print("stopped")


@contextmanager
def _running(config: ServeConfig) -> Iterator[str]:
    """The endpoint, with a server of its own where no Ray Serve runs and nothing asks for proxies: yields its URL."""
    if serve_runs():
        check_keys(config, os.environ.get(VARIABLE), reachable=_BY_PROXIES)
    elif not config.application.proxied:
        with running_endpoint(config, STRATEGIES):
            yield base_url(config)
        return
    with running_application(config, STRATEGIES) as url:
        yield url


def serve_file(config_path: Path, overrides: list[str]) -> str:
    """The endpoint as a configuration file of `serve deploy`, which the cluster checks again. Raises UserError."""
    config = _checked(config_path, overrides)
    own: dict[str, Any] = {
        "name": config.application.name,
        "route_prefix": config.application.route_prefix,
        "import_path": f"{app.__module__}:{app.__name__}",
        "args": {"config": str(config_path.absolute()), "overrides": overrides},
    }
    if keys := os.environ.get(VARIABLE):  # hashes
        own["runtime_env"] = {"env_vars": {VARIABLE: keys}}
    whole = {"proxy_location": "EveryNode", "http_options": http_options(config), "applications": [own]}
    return OmegaConf.to_yaml(OmegaConf.create(whole))


def base_url(config: ServeConfig) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def _welcome(config: ServeConfig, url: str) -> str:
    """What to do with the endpoint."""
    body = json.dumps({"model": config.alias, "messages": [{"role": "user", "content": config.example}]})
    models = make_catalog(config, STRATEGIES).models
    lines = [
        f"[bold]{escape(config.alias)}[/] is served at [bold]{url}/v1[/] (Ctrl-C stops it)",
        f"  models: {escape(', '.join(models))}; {escape(config.alias)} is {config.default_strategy}",
        f"  try: curl {url}/v1/chat/completions -H 'content-type: application/json' -d {escape(shlex.quote(body))}",
    ]
    if not is_loopback(config.host) and config.keys.required is False:
        lines.append(f"  [yellow]anyone who can reach {escape(config.host)} can use it: keys.required is false[/]")
    return "\n".join(lines)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM stops what is inside as Ctrl-C does, in order. Ray's own handler is back afterwards."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
