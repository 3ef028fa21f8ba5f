"""Facts about the notes of the pools that were started on this machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.config import RayConfig
from orchestrator.core.errors import UserError
from orchestrator.pools import local_ray
from orchestrator.pools.record import PoolRecord, check_name, find_record, ray_of, remove_record, write_record

TINY = PoolRecord(name="tiny", address="127.0.0.1:1", pid=12345)
FAR = PoolRecord(name="far", address="10.0.0.1:6379")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_without_a_name_the_only_pool_is_meant() -> None:
    with pytest.raises(UserError, match="none was started here; known: none; headrace up starts one"):
        find_record(None)
    write_record(TINY)
    assert find_record(None) == find_record("tiny") == TINY
    write_record(FAR)
    with pytest.raises(UserError, match="there are several, wanted the name of one: far, tiny"):
        find_record(None)
    with pytest.raises(UserError, match="no pool 'other' was started here; known: far, tiny"):
        find_record("other")
    remove_record("far")
    assert find_record(None) == TINY


def test_a_note_that_can_not_be_read_is_none(tmp_path: Path) -> None:
    write_record(TINY)
    [note] = tmp_path.rglob("tiny.json")
    note.with_name("half.json").write_text('{"name": "ha')
    assert find_record(None) == TINY


def test_of_two_records_of_one_name_the_first_stays(tmp_path: Path) -> None:
    write_record(TINY)
    with pytest.raises(UserError, match="tiny was started before; headrace down tiny ends it"):
        write_record(replace(TINY, address="127.0.0.1:2"))
    assert find_record("tiny") == TINY
    [note] = tmp_path.rglob("tiny*")
    note.write_text('{"name": "ti')
    write_record(TINY)
    assert find_record("tiny") == TINY


def test_a_command_goes_to_the_ray_of_its_pool_unless_it_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ray, "runs", lambda pid: pid == TINY.pid)
    write_record(TINY)
    assert ray_of("tiny", RayConfig(num_cpus=3)) == RayConfig(address="127.0.0.1:1", num_cpus=3)
    assert ray_of("tiny", RayConfig(address="auto")) == RayConfig(address="auto")
    assert ray_of(None, RayConfig()) == RayConfig()


def test_a_pool_whose_local_ray_has_ended_is_told_at_once() -> None:
    write_record(TINY)  # of a process that is none of ours
    with pytest.raises(UserError, match="tiny has ended with its Ray; headrace down tiny forgets it"):
        ray_of("tiny", RayConfig())
    write_record(FAR)
    assert ray_of("far", RayConfig()).address == FAR.address


@pytest.mark.parametrize("name", ["", "../x", "a b", "-a", "x" * 65])
def test_what_can_not_be_a_files_name_names_no_pool(name: str) -> None:
    with pytest.raises(UserError, match="wanted letters, digits, - and _"):
        check_name(name)
