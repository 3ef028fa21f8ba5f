"""Facts about the end of named pools."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.running import down as ending
from experiments.running.down import down
from orchestrator import cluster
from orchestrator.cluster import NoCluster
from orchestrator.core.config import RayConfig
from orchestrator.core.errors import UserError
from orchestrator.pools import local_ray
from orchestrator.pools.record import PoolRecord, records, write_record

LOCAL = PoolRecord(name="tiny", address="127.0.0.1:1", pid=12345)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_a_pool_on_a_ray_of_its_own_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(local_ray, "end", ended.append)
    write_record(LOCAL)
    assert down(None) == LOCAL
    assert (ended, records()) == ([12345], [])


def test_what_was_interrupted_can_be_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(pid: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_ray, "end", interrupted)
    write_record(LOCAL)
    with pytest.raises(KeyboardInterrupt):
        down("tiny")
    assert records() == [LOCAL]


def test_a_pool_on_a_ray_that_stays_leaves_that_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[PoolRecord] = []
    monkeypatch.setattr(ending, "_leave_ray", left.append)
    there = PoolRecord(name="tiny", address="127.0.0.1:1")
    write_record(there)
    down("tiny")
    assert (left, records()) == ([there], [])


def test_a_pool_whose_ray_is_gone_is_forgotten_and_one_that_can_not_be_asked_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def connected(config: RayConfig, replicas: int) -> Iterator[None]:
        raise errors.pop()
        yield

    errors = [NoCluster("nobody there"), UserError("of another version")]
    monkeypatch.setattr(cluster, "connected", connected)
    there = PoolRecord(name="tiny", address="10.0.0.7:6379")
    write_record(there)
    with pytest.raises(UserError, match="of another version"):
        down("tiny")
    assert records() == [there]
    down("tiny")
    assert records() == [] and "nobody there" in caplog.text
