"""Connects to Ray: a local one of this process, or a running cluster by address.

A local Ray is always our own, whatever else runs on this machine and whatever `RAY_ADDRESS` says; it listens on
loopback alone, and what it records of finished calls is bounded by recording none.
"""

import gc
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from orchestrator.core.config import RayConfig, RuntimeEnvConfig
from orchestrator.core.errors import ReplicaError, UserError

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no network
    "RAY_worker_niceness": "0",  # Ray's own 15 starves the engine beside anything else
}
_START_ATTEMPTS = 4
_LOOPBACK = "127.0.0.1"
_SYSTEM = {"task_events_report_interval_ms": 0}  # else its control process grows with every call
_LOGS = ("gcs_server.err", "raylet.err", "gcs_server.out", "raylet.out")


class NoCluster(UserError):
    """Nothing that answers is at the address."""


@contextmanager
def connected(config: RayConfig, replicas: int) -> Iterator[None]:
    """A Ray connection for as long as the context lasts; a local Ray has room for `replicas` actors.

    A Ray that this process is already connected to is used and left as it is. Raises NoCluster when no cluster is at
    the address, UserError when it is of another version of Ray or Python, ReplicaError when a local Ray does not start.
    """
    set_environment()
    import ray

    environment = _environment(config.runtime_env)
    if ray.is_initialized():
        yield
        return
    if config.address is None:
        if address := os.environ.get("RAY_ADDRESS"):
            log.warning("RAY_ADDRESS=%s is not used: a local Ray starts, since ray.address is not set", address)
        _start_local(config.num_cpus or max(os.cpu_count() or 1, replicas), environment)
    else:
        if config.address.startswith(f"{_LOOPBACK}:"):
            join_local()
        try:
            ray.init(address=config.address, runtime_env=environment, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            ray.shutdown()
            if "Version mismatch" in str(error):  # Ray has no type of its own for it
                raise UserError(
                    f"ray.address: the Ray cluster at {config.address!r} is of another version: {error}"
                ) from error
            raise NoCluster(f"ray.address: no Ray cluster at {config.address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def set_environment() -> None:
    """Before any part of a Ray of our own starts: its processes inherit it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _environment(config: RuntimeEnvConfig) -> Mapping[str, Any] | None:
    """As Ray takes it; None: its nodes' own. Raises UserError for what Ray does not take."""
    from ray.runtime_env import RuntimeEnv

    folder = config.working_dir
    if folder is not None and "://" not in folder and not os.path.isdir(folder):
        raise UserError(f"ray.runtime_env.working_dir: no folder {folder}; wanted one, or a URI")
    given = config.given
    try:
        return RuntimeEnv(**given) if given else None
    except (TypeError, ValueError) as error:
        raise UserError(f"ray.runtime_env: {error}") from error


def _start_local(num_cpus: int, environment: Mapping[str, Any] | None) -> None:
    """Starts Ray in this process's care. It gives its own parts 30 s, which a busy machine may exceed: so again."""
    _stay_on_loopback()
    for attempt in range(1, _START_ATTEMPTS + 1):
        with warnings.catch_warnings():  # Ray waits for no process of an attempt that failed, and Python tells each
            warnings.simplefilter("ignore", ResourceWarning)
            if (why := _failure(num_cpus, environment)) is None:
                return
            gc.collect()
        log.warning("ray: attempt %d of %d to start a local Ray failed: %s", attempt, _START_ATTEMPTS, why)
    raise ReplicaError(f"ray: no local Ray could be started in {_START_ATTEMPTS} attempts: {why}")


def _failure(num_cpus: int, environment: Mapping[str, Any] | None) -> str | None:
    """Why a local Ray did not start, of which nothing is left then; None: it did."""
    import ray

    before = {child.pid for child in _children()}
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            runtime_env=environment,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            configure_logging=False,
            _system_config=dict(_SYSTEM),
        )
    except Exception as error:  # Ray raises no narrower type
        ray.shutdown()
        left = [child for child in _children() if child.pid not in before]
        why = f"{' '.join(str(error).split())}{_last_words(left)}"
        _end(left)
        return why
    return None


def _stay_on_loopback() -> None:
    """Ray's own switch for a machine alone (meant for desktops): all its parts then listen on loopback, and a process
    that connects to such a Ray looks for them there."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of its own default, token authentication


def join_local() -> None:
    """Prepares for a local Ray of `headrace up`: on loopback, and with this user's token, as such a Ray wants. Ray does
    so itself for an address that it finds, but not for one that it is given."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    _stay_on_loopback()
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _children() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def _end(processes: list[psutil.Process]) -> None:
    """Ends what a failed attempt left running."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def _last_words(processes: list[psutil.Process]) -> str:
    """The last line of each log that the parts of a failed Ray wrote."""
    folders = set()
    for process in processes:
        try:
            arguments = process.cmdline()
        except psutil.Error:
            continue
        folders |= {argument.partition("=")[2] for argument in arguments if argument.startswith("--log_dir=")}
    lines = []
    for path in (Path(folder) / name for folder in sorted(folders) for name in _LOGS):
        if path.is_file() and (text := path.read_text(errors="replace").strip()):
            lines.append(f"{path.name}: {text.splitlines()[-1][:200]}")
    return f" ({'; '.join(lines)})" if lines else ""
