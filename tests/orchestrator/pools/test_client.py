"""Facts about a driver's view of a keeper elsewhere, over one that is made up: no Ray."""

import asyncio
from types import SimpleNamespace

import pytest

from orchestrator.core.errors import HeadraceError, PoolExhausted, UserError
from orchestrator.pools import client
from orchestrator.pools.client import RemoteMembership
from orchestrator.ray_calls import ReplicaLost
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
    assert str(found.exhausted) == f"pool tiny: its keeper is gone: {error}"
    assert found.version != 3
