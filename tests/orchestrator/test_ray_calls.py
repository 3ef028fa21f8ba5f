import asyncio
import inspect
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import ray
from ray.core.generated.common_pb2 import JAVA, RayException
from ray.exceptions import (
    ActorUnavailableError,
    CrossLanguageError,
    ObjectLostError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)

from orchestrator.core.errors import HeadraceError, ProblemError, ReplicaError
from orchestrator.ray_calls import NoAnswer, ReplicaLost, answered, as_error, submit

REQUEST: ContextVar[str] = ContextVar("request", default="none")


def classes(base: type[RayError] = RayError) -> Iterator[type[RayError]]:
    """Of all errors that Ray itself raises."""
    if base.__module__ == "ray.exceptions" and not issubclass(base, RayTaskError):
        yield base
    for cls in base.__subclasses__():
        yield from classes(cls)


def made(cls: type[RayError]) -> RayError:
    if cls is ActorUnavailableError:
        return ActorUnavailableError("what happened", None)
    if cls is CrossLanguageError:
        return CrossLanguageError(RayException(language=JAVA, formatted_exception_string="trace"))
    if cls.__init__ is Exception.__init__ or cls.__init__ is RayError.__init__:
        return cls("what happened")
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return cls(*("" for parameter in parameters if parameter.default is parameter.empty and parameter.kind < 2))


def test_a_call_is_made_outside_the_callers_context() -> None:
    token = REQUEST.set("a client's")
    try:
        assert submit(REQUEST.get) == "none"
    finally:
        REQUEST.reset(token)


@pytest.mark.parametrize("cls", sorted(set(classes()), key=lambda cls: cls.__name__))
def test_rays_own_errors_are_the_loss_of_the_replica(cls: type[RayError]) -> None:
    lost = as_error(made(cls), "policy replica 0")
    assert isinstance(lost, ReplicaLost)
    assert str(lost).startswith(f"policy replica 0: {cls.__name__}")


def test_an_argument_that_was_lost_on_its_way_is_not_the_loss_of_who_was_called() -> None:
    fault = as_error(RayTaskError("import_", "trace", ObjectLostError("a state", None, "")), "verifier: replica 1")
    assert isinstance(fault, ReplicaError) and not isinstance(fault, ReplicaLost)
    assert str(fault) == "verifier: replica 1: what was sent to it was lost: ObjectLostError"


def test_an_exception_that_can_not_be_pickled_is_the_loss_of_the_replica() -> None:
    class Unpicklable(Exception):
        def __reduce__(self) -> str:
            raise TypeError("no")

    assert isinstance(as_error(RayTaskError("read", "trace", Unpicklable()), "verifier: replica 1"), ReplicaLost)


def test_an_unexpected_exception_in_the_actor_is_the_loss_of_the_replica() -> None:
    lost = as_error(RayTaskError("read", "trace", AssertionError("out of order")), "verifier: replica 1")
    assert isinstance(lost, ReplicaLost)
    assert "AssertionError: out of order" in str(lost)


def test_headraces_own_errors_stay_what_they_are() -> None:
    cause = ProblemError("this prompt is refused")
    assert as_error(RayTaskError("read", "trace", cause), "policy replica 0") is cause


async def test_a_reply_that_does_not_come_is_the_loss_of_the_replica() -> None:
    with pytest.raises(NoAnswer, match=r"policy replica 0: no answer within 0\.01 s"):
        await answered(asyncio.Event().wait(), "policy replica 0", 0.01)


async def test_what_the_actor_returned_is_returned() -> None:
    assert await answered(asyncio.sleep(0, "reply"), "policy replica 0", 1.0) == "reply"
    assert issubclass(ReplicaLost, HeadraceError)


@ray.remote
class Called:
    """Waits when it is called, and keeps how that ended."""

    def __init__(self) -> None:
        self._began, self._may_end, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._outcome = ""

    async def wait(self) -> None:
        self._began.set()
        try:
            await self._may_end.wait()
            self._outcome = "answered"
        except asyncio.CancelledError:
            self._outcome = "cancelled"
            raise
        finally:
            self._ended.set()

    async def began(self) -> None:
        await self._began.wait()

    async def end(self) -> str:
        self._may_end.set()
        await self._ended.wait()
        return self._outcome


@ray.remote
class Caller:
    async def call(self, called: Any) -> None:
        await submit(called.wait.remote)


async def test_what_a_cancelled_task_of_an_actor_called_goes_on(local_ray: None) -> None:
    called = Called.options(num_cpus=0, max_concurrency=10).remote()
    caller = Caller.options(num_cpus=0).remote()
    try:
        calling = caller.call.remote(called)
        await called.began.remote()
        ray.cancel(calling)
        with pytest.raises(TaskCancelledError):
            await calling
        assert await called.end.remote() == "answered"
    finally:
        for actor in (called, caller):
            ray.kill(actor)
