"""How the replicas of a pool are made: one life for all kinds of actors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import ReplicaError
from orchestrator.ray_calls import (
    NoAnswer,
    NoRoom,
    ReplicaLost,
    actor_named,
    answered,
    create_actor,
    free_resources,
    kill_actor,
    named_actors,
    submit,
)
from orchestrator.replicas.members import Health, Member
from orchestrator.replicas.scaling import Scaling

NAMESPACE = "headrace"  # of all named actors
_STOP_TIMEOUT_S = 10.0
_FOUND_TIMEOUT_S = 20.0  # for one that was left behind to answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """An actor class and what its replicas get.

    The class has `begin() -> (pid, host)`, `load() -> info`, `health() -> Health` and `stop()`, all of them coroutines;
    and where its replicas have names `described() -> (pid, host, info)`, None before it has loaded.
    """

    kind: str  # for messages: `policy`, `verifier`
    actor: type
    arguments: Callable[[int], tuple[Any, ...]]  # of the actor in a place
    options: Callable[[], Mapping[str, Any]]  # Ray's, among them what it sets aside; asked when the cluster is up
    replicas: int  # at most
    max_restarts: int
    start_timeout_s: float  # to find room, and to load
    stall_timeout_s: float
    scaling: Scaling | None = None  # None: as many as there may be
    name: str = ""  # where its actors outlive whoever made them: under which they are found

    def who(self, index: int) -> str:
        return f"{self.kind}: replica {index}"

    async def start(self, index: int, epoch: int, on_placed: Callable[[], None]) -> Member:
        """Makes a replica that serves. Raises UserError for what can't be loaded, ReplicaLost when it dies meanwhile,
        NoRoom when the cluster has none for it, and NoAnswer when it takes too long."""
        who, options = self.who(index), {**self.options(), **self._kept(index, epoch)}
        actor = create_actor(self.actor, *self.arguments(index), **options)
        try:
            pid, host = await self._placed(actor, who, options)
            on_placed()
            info = await answered(submit(actor.load.remote), f"{who}, while it loaded", self.start_timeout_s)
        except BaseException:
            kill_actor(actor)
            raise
        return Member(index=index, epoch=epoch, actor=actor, info=info, pid=pid, host=host)

    def _kept(self, index: int, epoch: int) -> dict[str, Any]:
        """Ray's options for an actor that is found by its name."""
        if not self.name:
            return {}
        return {"name": f"{self.name}/{index}/{epoch}", "namespace": NAMESPACE, "lifetime": "detached"}

    async def left_behind(self) -> list[Member]:
        """What an earlier keeper of this name started and still serves, the newest of each place. Ends the rest."""
        found: dict[int, Member] = {}
        names = [name for name in named_actors(NAMESPACE) if name.startswith(f"{self.name}/")]
        for name in sorted(names, key=lambda name: int(name.rpartition("/")[2])):  # by epoch
            if (member := await self._found(name)) is not None:
                if member.index in found:
                    kill_actor(found[member.index].actor)
                found[member.index] = member
        return list(found.values())

    async def _found(self, name: str) -> Member | None:
        """None for one that is dead by now, or had not loaded."""
        index, epoch = map(int, name.split("/")[-2:])  # as `_kept` wrote it
        actor = actor_named(name, NAMESPACE)
        if actor is None:
            return None
        try:
            described = await answered(submit(actor.described.remote), self.who(index), _FOUND_TIMEOUT_S)
        except ReplicaError:
            described = None
        if described is None or index >= self.replicas:
            kill_actor(actor)
            return None
        pid, host, info = described
        return Member(index=index, epoch=epoch, actor=actor, info=info, pid=pid, host=host)

    async def health(self, member: Member) -> Health:
        """Raises ReplicaError when it is lost, or does not answer for as long as it may stall."""
        who, asked = self.who(member.index), submit(member.actor.health.remote)
        try:
            health: Health = await answered(asked, who, self.stall_timeout_s)
        except NoAnswer:
            raise ReplicaLost(f"{who}: no progress for {self.stall_timeout_s:g} s") from None
        return health

    async def end(self, member: Member, *, in_order: bool) -> None:
        """Ends the replica, and its children with it. `in_order`: its engine may shut down first."""
        try:
            if in_order:
                await answered(submit(member.actor.stop.remote), self.who(member.index), _STOP_TIMEOUT_S)
        except ReplicaError:
            pass  # it is killed all the same
        finally:
            kill_actor(member.actor)

    async def _placed(self, actor: Any, who: str, options: Mapping[str, Any]) -> tuple[int, str]:
        """The process id and the machine, once the cluster has found room for the actor."""
        try:
            place: tuple[int, str] = await answered(submit(actor.begin.remote), who, self.start_timeout_s)
        except NoAnswer:
            free = free_resources()
            labels = options.get("label_selector")
            among = f" on a node with the labels {labels}" if labels else ""
            raise NoRoom(
                f"{who} did not start in {self.start_timeout_s:g} s; it needs {options.get('num_cpus', 0):g} CPU and "
                f"{options.get('num_gpus', 0):g} GPU{among}, free in the cluster: {free.get('CPU', 0):g} CPU, "
                f"{free.get('GPU', 0):g} GPU"
            ) from None
        return place
