"""How both pools call their actors: outside the caller's context, and with one meaning for each of Ray's errors.

Ray takes a call for a child of the Ray task in whose context (`contextvars`) it is made, and cancels children together
with their parent. A call that a pool makes for many callers must not end with one of them, for example with a client
that leaves the endpoint: so it is made in an empty context.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeVar

from orchestrator.core.errors import HeadraceError, ReplicaError

T = TypeVar("T")


class ReplicaLost(ReplicaError):
    """The replica that was called can't be relied on any more: it is to be killed and restarted, its work redone."""


class NoAnswer(ReplicaLost):
    """A call was not answered in time."""


def submit(call: Callable[[], Any]) -> Any:
    """Makes a remote call (`lambda: actor.method.remote(...)`) outside the caller's context. What the call returns."""
    return Context().run(call)


async def answered(reply: Awaitable[T], who: str, timeout_s: float) -> T:
    """The reply of a call within the timeout.

    Raises what `as_error` makes of Ray's errors, and NoAnswer when there is no reply in time.
    """
    from ray.exceptions import RayError

    try:
        async with asyncio.timeout(timeout_s):
            return await reply
    except TimeoutError:
        raise NoAnswer(f"{who}: no answer within {timeout_s:g} s") from None
    except RayError as error:
        raise as_error(error, who) from error


def as_error(error: Exception, who: str) -> HeadraceError:
    """What one of Ray's errors means.

    The actor's own HeadraceErrors stay what they are. An argument that was lost on its way to the actor, with the node
    or the actor that made it, is a ReplicaError: the actor that was called is sound. Everything else, from a dead actor
    or a node out of memory to an exception that the actor's code did not expect, is the loss of the replica.
    """
    from ray.exceptions import RayError, RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, HeadraceError):
        return cause
    if isinstance(cause, RayError) and type(cause) is not RayError:  # that one wraps what can't be pickled
        return ReplicaError(f"{who}: what was sent to it was lost: {type(cause).__name__}")
    if cause is not None:
        return ReplicaLost(f"{who}: {type(cause).__name__}: {cause}")
    lines = str(error).strip().splitlines()
    return ReplicaLost(f"{who}: {type(error).__name__}{f': {lines[0]}' if lines else ''}")
