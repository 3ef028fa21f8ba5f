"""Facts about two `headrace up` of one name at once, with a Ray that is made up."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.running import pool as pools
from experiments.running.pool import PoolPlan, up
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig
from orchestrator.core.errors import UserError
from orchestrator.pools.record import PoolRecord, find_record, records, write_record
from orchestrator.pools.spec import PoolSpec
from orchestrator.ray_calls import ReplicaLost

OTHER = PoolRecord(name="tiny", address="127.0.0.1:1", pid=1)
SPEC = PoolSpec(name="tiny", policy=PolicyConfig(model="m"), steps=StepConfig(), verifier=None)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(pools, "connected", lambda config, replicas: nullcontext())


def test_the_one_whose_ray_starts_later_ends_it_and_leaves_the_other_pool_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []

    def start(num_cpus: int, address_file: Path, log: Path) -> tuple[str, int]:
        write_record(OTHER)  # the other one has started meanwhile
        return "127.0.0.1:2", 2

    monkeypatch.setattr(pools.local_ray, "start", start)
    monkeypatch.setattr(pools.local_ray, "end", ended.append)
    with pytest.raises(UserError, match="tiny was started before; headrace down tiny ends it"):
        up(PoolPlan(spec=SPEC, ray=RayConfig()), lambda stage: None)
    assert (ended, find_record("tiny")) == ([2], OTHER)


@pytest.mark.parametrize("found_late", [False, True])
def test_the_one_that_finds_the_name_taken_on_a_cluster_ends_nothing_of_the_other_pool(
    monkeypatch: pytest.MonkeyPatch, found_late: bool
) -> None:
    async def refused() -> Any:
        raise ReplicaLost("its keeper: it could not be made")

    others = [None, object()]  # nobody has the name, and then another one

    def create(spec: PoolSpec) -> Any:
        if not found_late:
            raise pools.taken(spec.name)
        return SimpleNamespace(open=SimpleNamespace(remote=refused))

    monkeypatch.setattr(pools, "pool_actor", lambda name: others.pop(0))
    monkeypatch.setattr(pools, "create_pool_actor", create)
    monkeypatch.setattr(pools, "close_pool", lambda name: pytest.fail("it ends the other one's pool"))
    with pytest.raises(UserError, match="tiny was started on that Ray by another headrace up"):
        up(PoolPlan(spec=SPEC, ray=RayConfig(address="10.0.0.1:6379")), lambda stage: None)
    assert records() == []
