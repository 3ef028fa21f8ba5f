"""Shared parts: one local Ray for the whole session. Async tests share one event loop (see pyproject.toml)."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from orchestrator import api
from orchestrator.cluster import connected
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig
from orchestrator.policy import PolicyPool
from orchestrator.verifier.open import open_verifier
from orchestrator.verifier.resolve import ResolvedVerifier

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yields a folder from which the actors can import what a test writes there."""
    plugins = tmp_path_factory.mktemp("plugins")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(plugins), prepend=os.pathsep)
            stack.enter_context(connected(RayConfig(num_cpus=8), replicas=1))  # tries again on a busy machine
        yield plugins


@pytest.fixture(scope="session")
async def policy_pool(local_ray: Path) -> AsyncIterator[PolicyPool]:
    """Two replicas of the shipped tiny policy on vLLM's CPU build. They take a minute to start: one for all tests."""
    model = Path(__file__).parents[1] / "experiments" / "tinymath" / "models" / "policy"
    config = PolicyConfig(
        model=str(model), replicas=2, kv_cache_gib=0.25, max_num_seqs=32, max_restarts=1, start_timeout_s=1200.0
    )
    async with PolicyPool.open(config, StepConfig()) as pool:
        yield pool


@pytest.fixture
def shared_policy(policy_pool: PolicyPool, monkeypatch: pytest.MonkeyPatch) -> list[PolicyConfig]:
    """The policies that `open_headrace` was asked for; it gives the one that all tests share."""
    asked = []

    async def open_pools(
        stack: AsyncExitStack, *, policy: PolicyConfig, steps: StepConfig, verifier: ResolvedVerifier | None
    ) -> tuple[PolicyPool, Any]:
        asked.append(policy)
        judges = None if verifier is None else await open_verifier(stack, verifier, policy=policy_pool)
        return policy_pool, judges

    monkeypatch.setattr(api, "open_pools", open_pools)
    return asked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first pays for the start of the engines. The two large groups are begun first, so that each
    has a process of its own."""
    for item in items:
        if "policy_pool" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(1500))
    items.sort(key=lambda item: _FIRST.get(_resource(item.nodeid.partition("::")[0]), len(_FIRST)))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, where `make test` runs two processes
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Modules that share the pools go to one process, one after the other; so do those that start a Ray of their own,
    and those that look for processes which the sandbox left behind."""
    from xdist.scheduler import LoadScopeScheduling

    class ByResource(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _resource(nodeid.partition("::")[0])

    return ByResource(config, log)


_FIRST = {"a Ray of its own": 0, "the pools": 1}  # in one process, too: the Ray of the pools stays until its end


@cache
def _resource(module: str) -> str:
    path = Path(__file__).parents[1] / module
    if path.name in ("test_sandbox.py", "test_unit_tests.py"):
        return "the sandbox"
    text = path.read_text(encoding="utf-8")
    if (
        (path.parent.name == "running" and path.name in ("test_run.py", "test_serve.py"))
        or "two_nodes" in text
        or "several_nodes" in text
    ):
        return "a Ray of its own"
    shared = ("policy_pool", "shared_policy", "local_ray")
    return "the pools" if any(name in text for name in shared) or "orchestrator/verifier" in module else module
