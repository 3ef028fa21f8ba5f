"""Many replicas in one Ray actor, because a process for each takes a hundred MB and more.

The replicas are the pools' own `PolicyActor` and `VerifierActor`. A call of a replica is one call of the actor
that holds it. A replica does not die alone: a test of that gives each a process of its own.
"""

import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.core.errors import ReplicaError
from orchestrator.ray_calls import actor_named, answered, create_actor, submit
from orchestrator.replicas.blueprint import NAMESPACE, Blueprint
from orchestrator.replicas.members import Member

_MOST_CALLS = 100_000  # at a time: each driver has a long poll at each replica
_STOP_TIMEOUT_S = 20.0


class ReplicaProcess:
    """Owner of replicas, by key. It counts the calls of each method that reach them."""

    def __init__(self) -> None:
        self._replicas: dict[str, Any] = {}
        self._calls: Counter[str] = Counter()

    async def place(self) -> tuple[int, str]:
        """Its process id and its machine."""
        return os.getpid(), socket.gethostname()

    async def make(self, key: str, cls: type, arguments: Sequence[Any]) -> None:
        self._replicas[key] = cls(*arguments)

    async def call(self, key: str, method: str, *arguments: Any) -> Any:
        self._calls[method] += 1
        return await getattr(self._replicas[key], method)(*arguments)

    async def drop(self, key: str) -> None:
        self._replicas.pop(key, None)

    async def calls(self) -> Counter[str]:
        return self._calls


def create_process(name: str, **options: Any) -> Any:
    """A handle to a `ReplicaProcess` of that name. Whoever creates it ends it (`ray_calls.kill_actor`)."""
    named = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": _MOST_CALLS}
    return create_actor(ReplicaProcess, **named, **options)


@dataclass(frozen=True, slots=True)
class ReplicaHandle:
    """Looks like the handle of an actor: `handle.method.remote(...)`. It can be pickled."""

    process: Any
    key: str

    def __getattr__(self, method: str) -> "_Method":
        if method.startswith("__"):  # what pickle asks for
            raise AttributeError(method)
        return _Method(self.process.call, self.key, method)


@dataclass(frozen=True, slots=True)
class _Method:
    call: Any  # Ray's, of the process
    key: str
    name: str

    def options(self, **options: Any) -> "_Method":
        return _Method(self.call.options(**options), self.key, self.name)

    def remote(self, *arguments: Any) -> Any:
        return self.call.remote(self.key, self.name, *arguments)  # one by one: Ray then fetches objects among them


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBlueprint(Blueprint):
    """A blueprint whose replicas go into these processes, by name, one after the other in turn."""

    processes: Sequence[str]

    @classmethod
    def of(cls, blueprint: Blueprint, processes: Sequence[str]) -> "SharedBlueprint":
        own = {field.name: getattr(blueprint, field.name) for field in fields(blueprint)}
        return cls(**own, processes=processes)

    async def start(self, index: int, epoch: int, on_placed: Callable[[], None]) -> Member:
        who, name = self.who(index), self.processes[index % len(self.processes)]
        process: Any = actor_named(name, NAMESPACE)
        handle = ReplicaHandle(process, f"{self.kind}/{index}/{epoch}")
        pid, host = await answered(submit(process.place.remote), who, self.start_timeout_s)
        on_placed()
        try:
            make = submit(lambda: process.make.remote(handle.key, self.actor, self.arguments(index)))
            await answered(make, who, self.start_timeout_s)
            info = await answered(submit(handle.load.remote), who, self.start_timeout_s)
        except BaseException:
            submit(lambda: process.drop.remote(handle.key))
            raise
        return Member(index=index, epoch=epoch, actor=handle, info=info, pid=pid, host=host)

    async def end(self, member: Member, *, in_order: bool) -> None:
        who, handle = self.who(member.index), member.actor
        try:
            if in_order:
                await answered(submit(handle.stop.remote), who, _STOP_TIMEOUT_S)
        except ReplicaError:
            pass  # it goes all the same
        finally:
            submit(lambda: handle.process.drop.remote(handle.key))
