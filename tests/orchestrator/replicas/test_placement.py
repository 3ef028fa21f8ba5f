"""Where replicas start and what Ray gives them, on a real Ray cluster of two nodes on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.cluster import connected
from orchestrator.core.config import PlacementConfig, RayConfig, RuntimeEnvConfig
from orchestrator.core.errors import UserError
from orchestrator.ray_calls import NoAnswer
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.replicas.members import Member
from orchestrator.replicas.placement import placement_options
from tests.two_nodes import two_nodes


class Replica:
    """Tells its node and what it finds there instead of a model."""

    async def begin(self) -> tuple[int, str]:
        return os.getpid(), "here"

    async def load(self) -> dict[str, str | None]:
        from importlib.util import find_spec

        return {
            "node": ray.get_runtime_context().get_node_id(),
            "variable": os.environ.get("HEADRACE_TEST_VARIABLE"),
            "own": os.environ.get("HEADRACE_TEST_OWN"),
            "module": None if find_spec("only_in_working_dir") is None else "found",
        }


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Any, Any]]:
    with two_nodes(labels={"kind": "second"}) as nodes:
        yield nodes


def blueprint(placement: PlacementConfig, timeout_s: float = 120.0) -> Blueprint:
    own = {"runtime_env": {"env_vars": {"HEADRACE_TEST_OWN": "own"}}, "num_cpus": 0.5}
    return Blueprint(
        kind="verifier",
        actor=Replica,
        arguments=lambda index: (),
        options=lambda: {**own, **placement_options(placement)},
        replicas=2,
        max_restarts=0,
        start_timeout_s=timeout_s,
        stall_timeout_s=60.0,
    )


async def started(made: Blueprint) -> list[Member]:
    members = [await made.start(index, 0, lambda: None) for index in range(made.replicas)]
    for member in members:
        await made.end(member, in_order=False)
    return members


async def nodes_of(placement: PlacementConfig) -> list[str]:
    return [member.info["node"] for member in await started(blueprint(placement))]


@pytest.mark.engines
async def test_replicas_spread_over_the_nodes_or_go_to_those_with_a_label(cluster) -> None:
    head, second = cluster[0].head_node.node_id, cluster[1].node_id
    with connected(RayConfig(address=cluster[0].address), 0):
        assert set(await nodes_of(PlacementConfig(spread=True))) == {head, second}
        assert await nodes_of(PlacementConfig(labels={"kind": "second"})) == [second, second]
        assert await nodes_of(PlacementConfig(spread=True, labels={"kind": "head"})) == [head, head]
        with pytest.raises(NoAnswer, match=r"on a node with the labels {'kind': 'third'}"):
            await blueprint(PlacementConfig(labels={"kind": "third"}), timeout_s=2.0).start(0, 0, lambda: None)


@pytest.mark.engines
async def test_the_runtime_environment_reaches_replicas_that_have_one_of_their_own(cluster, tmp_path: Path) -> None:
    (tmp_path / "only_in_working_dir.py").touch()
    environment = RuntimeEnvConfig(working_dir=str(tmp_path), env_vars={"HEADRACE_TEST_VARIABLE": "set"})
    with connected(RayConfig(address=cluster[0].address, runtime_env=environment), 0):
        for member in await started(blueprint(PlacementConfig())):
            told = (member.info["variable"], member.info["own"], member.info["module"])
            assert told == ("set", "own", "found")


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"working_dir": "/no/such/folder"}, "no folder /no/such/folder"), ({"env_vars": {"A": 1}}, "env_vars")],
)
def test_what_ray_would_not_take_is_refused_before_anything_starts(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"ray\.runtime_env.*{named}"):
        with connected(RayConfig(runtime_env=RuntimeEnvConfig(**settings)), 1):
            pass
