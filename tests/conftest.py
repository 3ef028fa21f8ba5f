"""Shared parts: one local Ray for the whole session. Async tests share one event loop (see pyproject.toml)."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.cluster import connected
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig
from orchestrator.policy import PolicyPool

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


_FIRST = {"the pools": 0, "a Ray of its own": 1}


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


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first pays for the start of the engines. Where tests run in two processes (`make test`), one
    has all that share the pools, the other those that start a Ray of their own: these are begun first, and never in one
    process. Each module without a group of its own stays whole."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "policy_pool" in fixtures:
            item.add_marker(pytest.mark.timeout(1500))
        if item.get_closest_marker("xdist_group") is None:
            shares = fixtures & {"policy_pool", "local_ray"}
            item.add_marker(pytest.mark.xdist_group("the pools" if shares else item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: _FIRST.get(_group(item), len(_FIRST)))


def _group(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    assert mark is not None
    return str(mark.args[0])
