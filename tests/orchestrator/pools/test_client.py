"""Facts about a driver's view of a keeper elsewhere, over one that is made up: no Ray."""

import asyncio
from types import SimpleNamespace

import pytest

from orchestrator.core.errors import HeadraceError, PoolExhausted, ReplicaError, UserError
from orchestrator.pools import client
from orchestrator.pools.client import PoolClient, RemoteMembership
from orchestrator.ray_calls import NoAnswer, ReplicaBroken, ReplicaLost
from orchestrator.replicas.members import Members


def membership(*answers: Members | HeadraceError) -> RemoteMembership:
    """Whose keeper answers so, the last again and again."""
    left = list(answers)

    async def after(part: str, version: int, wait_s: float) -> Members:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, HeadraceError):
            raise answer
        return answer

    return RemoteMembership(SimpleNamespace(after=SimpleNamespace(remote=after)), "tiny", "policy")


async def test_a_keeper_that_dies_and_comes_back_is_waited_for() -> None:
    members = membership(ReplicaLost("it died"), Members(version=5))
    assert await members.after(3) == members.current == Members(version=5)


@pytest.mark.parametrize("error", [ReplicaLost("it died"), UserError("no such model")])
async def test_where_no_keeper_can_keep_the_pool_the_members_are_exhausted(
    error: HeadraceError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_RESTART_S", 0.0)
    members = membership(error)
    async with asyncio.timeout(10):
        found = await members.after(3)
    assert isinstance(found.exhausted, PoolExhausted)
    assert str(found.exhausted) == (
        f"pool tiny: its keeper is gone, and no replica is left that it had started: {error}"
    )
    assert found.version != 3


class Keeper:
    """Fails so often to be joined, with this error."""

    def __init__(self, error: HeadraceError, times: float) -> None:
        self.join = SimpleNamespace(remote=self._join)
        self.beat = self.leave = SimpleNamespace(remote=self._none)
        self._error, self.left = error, times

    async def _join(self, driver: str) -> str:
        if self.left:
            self.left -= 1
            raise self._error
        return "what it keeps"

    async def _none(self, driver: str) -> None:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_S", 0.0)
    monkeypatch.setattr(client.PoolClient, "_beat", lambda client: None)


@pytest.mark.usefixtures("quick")
async def test_an_attach_waits_for_a_keeper_that_is_being_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper(ReplicaLost("it died"), times=3)
    monkeypatch.setattr(client, "pool_actor", lambda pool: keeper)
    async with PoolClient.attached("tiny") as attached:
        assert attached.spec == "what it keeps" and keeper.left == 0
    assert [record.getMessage() for record in caplog.records] == [
        "pool tiny: its keeper is being started again: waiting for it, 30 s at most"
    ]


@pytest.mark.usefixtures("quick")
async def test_an_attach_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_JOIN_S", 0.02)
    monkeypatch.setattr(client, "pool_actor", lambda pool: Keeper(ReplicaLost("it died"), times=float("inf")))
    with pytest.raises(ReplicaError, match=r"its keeper died, and was not back within 0\.02 s: it died"):
        async with PoolClient.attached("tiny"):
            pass


@pytest.mark.usefixtures("quick")
async def test_an_attach_waits_for_no_keeper_that_was_ended_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    keepers = [Keeper(ReplicaLost("it died"), times=float("inf")), None]
    monkeypatch.setattr(client, "pool_actor", lambda pool: keepers.pop(0))
    with pytest.raises(UserError, match="there is no pool 'tiny'"):
        async with PoolClient.attached("tiny"):
            pass


@pytest.mark.parametrize("error", [NoAnswer("busy"), ReplicaBroken("a bug"), UserError("no such model")])
@pytest.mark.usefixtures("quick")
async def test_an_attach_says_at_once_what_waiting_does_not_change(
    error: HeadraceError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "pool_actor", lambda pool: Keeper(error, times=1))
    with pytest.raises(type(error), match=str(error)):
        async with PoolClient.attached("tiny"):
            pass
