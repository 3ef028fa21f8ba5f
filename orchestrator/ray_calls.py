"""How both pools call their actors: outside the caller's context, and with one meaning for each of Ray's errors.

Ray takes a call for a child of the Ray task in whose context (`contextvars`) it is made, and cancels children together
with their parent. A call that a pool makes for many callers must not end with one of them, for example with a client
that leaves the endpoint: so it is made in an empty context.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar

from orchestrator.core.errors import HeadraceError, ReplicaError

T = TypeVar("T")


class ReplicaLost(ReplicaError):
    """The replica that was called can't be relied on any more: it is to be killed and restarted, its work redone."""


class NoAnswer(ReplicaLost):
    """A call was not answered in time."""


class NoRoom(NoAnswer):
    """The cluster had no room for a replica in time."""


class ReplicaRemoved(ReplicaLost):
    """The replica was taken out of its pool, and is no fault of anybody."""


class ReplicaBroken(ReplicaLost):
    """The replica answers with exceptions that nobody expects of it."""


def submit(call: Callable[[], Any]) -> Any:
    """Makes a remote call (`lambda: actor.method.remote(...)`) outside the caller's context. What the call returns."""
    return Context().run(call)


def create_actor(cls: type, *arguments: Any, **options: Any) -> Any:
    """A handle to a new actor. Ray does not restart it: its pool does, and knows what to send again."""
    import ray

    options = {"max_concurrency": 1000, "max_restarts": 0, "max_task_retries": 0, **options}
    return submit(lambda: ray.remote(cls).options(**options).remote(*arguments))


def kill_actor(actor: Any) -> None:
    """Ends the actor at once. Ray kills a process that can't answer; its children end with it."""
    import ray

    ray.kill(actor)


def named_actors(namespace: str) -> list[str]:
    """Names of the actors there that live."""
    import ray.util

    found = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in found if actor["namespace"] == namespace]


def actor_named(name: str, namespace: str) -> Any | None:
    """A handle to a named actor; None where there is none."""
    import ray

    try:
        return submit(lambda: ray.get_actor(name, namespace=namespace))
    except ValueError:
        return None


def was_restarted() -> bool:
    """Whether the actor that this is died before, and Ray started it again."""
    import ray

    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def free_resources() -> dict[str, float]:
    """Of the cluster, by Ray's names for them."""
    import ray

    found: dict[str, float] = ray.available_resources()
    return found


async def answered(reply: Awaitable[T], who: str, timeout_s: float) -> T:
    """The reply of a call within the timeout.

    Raises what `as_error` makes of Ray's errors, and NoAnswer when there is no reply in time.
    """
    with meaning(who):
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            raise NoAnswer(f"{who}: no answer within {timeout_s:g} s") from None


@contextmanager
def meaning(who: str) -> Iterator[None]:
    """Raises what `as_error` makes of one of Ray's errors inside."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise as_error(error, who) from error


def as_error(error: Exception, who: str) -> HeadraceError:
    """What one of Ray's errors means.

    The actor's own HeadraceErrors stay what they are. An argument that was lost on its way to the actor, with the node
    or the actor that made it, is a ReplicaError: the actor that was called is sound. Everything else, from a dead actor
    or a node out of memory to an exception that the actor's code did not expect (ReplicaBroken), is the loss of the
    replica.
    """
    from ray.exceptions import RayError, RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, HeadraceError):
        return cause
    if isinstance(cause, RayError) and type(cause) is not RayError:  # that one wraps what can't be pickled
        return ReplicaError(f"{who}: what was sent to it was lost: {type(cause).__name__}")
    if cause is not None:
        return ReplicaBroken(f"{who}: {type(cause).__name__}: {cause}")
    lines = str(error).strip().splitlines()
    return ReplicaLost(f"{who}: {type(error).__name__}{f': {lines[0]}' if lines else ''}")
