"""Where the verifier's states are, who still starts from them, and how they move. A state is a cache of its tokens."""

import logging
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence

from orchestrator.core.errors import HeadraceError
from orchestrator.core.nouns import StateHandle
from orchestrator.core.protocols import ScoreRequest
from orchestrator.ray_calls import ReplicaLost
from orchestrator.verifier.replica import Replica

log = logging.getLogger(__name__)


class States:
    """Owner of what a pool knows of states beside their handles."""

    def __init__(self, replicas: Sequence[Replica], max_states: int) -> None:
        """`max_states`: no more can exist."""
        self._replicas = replicas
        self._moved: OrderedDict[str, tuple[int, int]] = OrderedDict()  # key -> (replica, epoch), unlike its handle's
        self._max_moved = max_states
        self._starting: Counter[str] = Counter()  # readings under way from each state
        self._unwanted: set[str] = set()  # states that may go after these readings
        self._released: defaultdict[int, list[str]] = defaultdict(list)

    def home(self, handle: StateHandle) -> Replica | None:
        """The replica that should hold the state; None when it went down with its replica."""
        index, epoch = self._moved.get(handle.key, (handle.replica, handle.epoch))
        if not 0 <= index < len(self._replicas):
            return None
        replica = self._replicas[index]
        return replica if replica.up and replica.epoch == epoch else None

    def remember(self, key: str, replica: Replica, epoch: int) -> None:
        """A state is, or will be, elsewhere than its handle says."""
        self._moved[key] = (replica.index, epoch)
        self._moved.move_to_end(key)
        while len(self._moved) > self._max_moved:
            self._moved.popitem(last=False)

    def rebuilt(self, handle: StateHandle, replica: Replica, epoch: int) -> None:
        """A state was made anew there. Where it was is not asked for it any more."""
        home = self.home(handle)
        if home is not None and home is not replica:
            self._released[home.index].append(handle.key)
        self.remember(handle.key, replica, epoch)

    def enter(self, reading: ScoreRequest) -> None:
        """A reading is under way."""
        if reading.handle is not None:
            self._starting[reading.handle.key] += 1

    def leave(self, reading: ScoreRequest, *, freed: bool = False) -> None:
        """A reading is over. `freed`: the replica has already let its parent's state go."""
        handle = reading.handle
        if handle is None:
            return
        self._starting[handle.key] -= 1
        if not reading.keep_parent:
            self._unwanted.add(handle.key)
        if self._starting[handle.key] > 0:
            return
        del self._starting[handle.key]
        if handle.key in self._unwanted:
            self._unwanted.discard(handle.key)
            if freed:
                self._moved.pop(handle.key, None)
            else:
                self.release([handle])

    def shared(self, readings: Sequence[ScoreRequest]) -> frozenset[str]:
        """Keys of states from which other readings under way start, too."""
        own = Counter(reading.handle.key for reading in readings if reading.handle is not None)
        return frozenset(key for key, count in own.items() if self._starting[key] > count)

    def release(self, handles: Sequence[StateHandle]) -> None:
        """Those from which readings under way start go after these: they may be rebuilt meanwhile."""
        for handle in handles:
            if handle.key in self._starting:
                self._unwanted.add(handle.key)
                continue
            home = self.home(handle)
            self._moved.pop(handle.key, None)
            if home is not None:
                self._released[home.index].append(handle.key)

    def drop(self, keys: Sequence[str], replica: Replica, epoch: int) -> None:
        """Frees what a replica may hold under keys that no handle has."""
        if keys and replica.up and replica.epoch == epoch:
            self._released[replica.index] += keys

    @property
    def any_released(self) -> bool:
        return bool(self._released)

    def send_releases(self) -> None:
        """Has replicas forget the states that were released."""
        for index, keys in self._released.items():
            self._replicas[index].release(keys)
        self._released.clear()

    def lost(self, replica: Replica) -> None:
        """A replica's states went down with it."""
        self._released.pop(replica.index, None)

    async def migrate(self, handle: StateHandle, source: Replica, target: Replica) -> StateHandle:
        """Moves a state; earlier handles stay good. The handle itself when that came to nothing."""
        epoch = target.epoch
        try:
            moved = await self.copy(source, target, epoch, {handle.key: handle.key})
        except ReplicaLost:
            return handle
        if not moved:
            return handle
        self.remember(handle.key, target, epoch)
        self._released[source.index].append(handle.key)
        return StateHandle(replica=target.index, epoch=epoch, key=handle.key, num_tokens=handle.num_tokens)

    async def copy(self, source: Replica, target: Replica, epoch: int, names: dict[str, str]) -> bool:
        """Copies states through the object store, under new names; False when it came to nothing.

        What `source` does not hold will be found missing at `target`. Raises ReplicaLost when `target` is.
        """
        try:
            found, blobs = await source.export(list(names))
            if not found:
                return False
            await target.ask(epoch, lambda actor: actor.import_.remote(list(names.values()), blobs))
        except HeadraceError as error:
            if target.epoch != epoch:
                raise
            log.warning("verifier: a state was not moved and will be rebuilt: %s", error)
            return False
        return True
