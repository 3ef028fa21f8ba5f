import asyncio
from contextvars import ContextVar

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from orchestrator.core.errors import HeadraceError, ProblemError
from orchestrator.ray_calls import ReplicaLost, answered, as_error, submit

REQUEST: ContextVar[str] = ContextVar("request", default="none")


def test_a_call_is_made_outside_the_callers_context() -> None:
    token = REQUEST.set("a client's")
    try:
        assert submit(REQUEST.get) == "none"
    finally:
        REQUEST.reset(token)


@pytest.mark.parametrize("error", [ActorDiedError(), WorkerCrashedError(), OutOfMemoryError("no memory left")])
def test_rays_own_errors_are_the_loss_of_the_replica(error: Exception) -> None:
    lost = as_error(error, "policy replica 0")
    assert isinstance(lost, ReplicaLost)
    assert str(lost).startswith(f"policy replica 0: {type(error).__name__}")


def test_an_unexpected_exception_in_the_actor_is_the_loss_of_the_replica() -> None:
    lost = as_error(RayTaskError("read", "trace", AssertionError("out of order")), "verifier: replica 1")
    assert isinstance(lost, ReplicaLost)
    assert "AssertionError: out of order" in str(lost)


def test_headraces_own_errors_stay_what_they_are() -> None:
    cause = ProblemError("this prompt is refused")
    assert as_error(RayTaskError("read", "trace", cause), "policy replica 0") is cause


async def test_a_reply_that_does_not_come_is_the_loss_of_the_replica() -> None:
    with pytest.raises(ReplicaLost, match=r"policy replica 0: no answer within 0\.01 s"):
        await answered(asyncio.Event().wait(), "policy replica 0", 0.01)


async def test_what_the_actor_returned_is_returned() -> None:
    assert await answered(asyncio.sleep(0, "reply"), "policy replica 0", 1.0) == "reply"
    assert issubclass(ReplicaLost, HeadraceError)
