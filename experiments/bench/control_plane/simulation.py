"""One driver of many over replicas on machines of their own, as a closed queueing network that is simulated. Pure.

Each sequence goes round: its step is written, comes back with a poll, is read by a verifier, and the next step is asked
for. What is on its way between a driver and a replica waits for a call, and one call carries all that waits. Every
call that comes back, and every step, takes time of the driver's event loop, which does one thing at a time. Drivers are
alike, so one of them is simulated, with its share of the sequences.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count

Draw = Callable[[random.Random, float], float]
"""A time of that mean."""


def uniform(rng: random.Random, mean: float) -> float:
    """Between half and one and a half of it, as null engines draw."""
    return mean * rng.uniform(0.5, 1.5)


def exponential(rng: random.Random, mean: float) -> float:
    return rng.expovariate(1 / mean) if mean else 0.0


def fixed(rng: random.Random, mean: float) -> float:
    return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCosts:
    """Seconds of a driver's event loop."""

    step_s: float  # of a step, whatever the pool
    call_s: float  # of a call that comes back
    look_s: float  # at one replica, when a request or a reading is placed

    def of_step(self, *, calls: float, looks: float) -> float:
        """Of a step that takes so many calls and looks."""
        return self.step_s + calls * self.call_s + looks * self.look_s


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What is simulated."""

    drivers: int
    replicas: int
    verifiers: int  # replicas of the verifier
    sequences: int  # in flight, of all drivers
    together: int = 1  # of them wait for each other after each step, as the children of a beam do
    siblings: int = 1  # of those go to the same replicas, where their prefix was written and read
    write_s: float  # of a step
    read_s: float  # of a call of the verifier
    trip_s: float = 0.001  # of a call there and back
    writing: Draw = uniform
    reading: Draw = uniform
    work: Draw = fixed  # of the event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    steps_per_s: float  # of all drivers
    busy: float  # share of the time that a driver's event loop works
    calls: Mapping[str, float]  # per step, by kind
    step_s: float  # from the request for a step to the request for the next one


def pace_s(sequences: float) -> float:
    """Between two replies to a driver that has so many sequences in a replica (`orchestrator.policy.host`)."""
    return min(0.05, 0.005 + 0.0002 * sequences)


@dataclass(slots=True, eq=False)
class _Channel:
    """Calls between the driver and one replica. What comes up while the most are under way shares the next one."""

    kind: str
    limit: int
    waiting: list[int] = field(default_factory=list)  # sequences
    under_way: int = 0
    not_before: float = 0.0


class _Driver:
    """Owner of the event heap and of the driver's queue."""

    def __init__(self, system: System, costs: LoopCosts, seed: int) -> None:
        self.system = system
        self.costs = costs
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.calls: Counter[str] = Counter()
        self.busy_s = 0.0
        self.step_seconds = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()  # (work, what follows)
        self._working = False
        self._num = max(1, round(system.sequences / system.drivers))
        self._per_replica = self._num / system.replicas
        self._asked = [0.0] * self._num  # when each sequence's step was
        self._home = [0] * self._num  # the replica that writes it
        self._reader = [0] * self._num  # the verifier's replica that reads it
        self._unread = [0] * (1 + self._num // system.together)  # sequences, by those that wait for each other
        self._polls = [_Channel("poll", 1) for _ in range(system.replicas)]
        self._updates = [_Channel("update", 1) for _ in range(system.replicas)]
        self._reads = [_Channel("read", 2) for _ in range(system.verifiers)]

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        self.now = until

    def begin(self) -> None:
        """All sequences are somewhere in their first step."""
        for first in range(0, self._num, self.system.together):
            for sequence in self._placed(first):
                self._after(self.rng.random() * self.system.write_s, partial(self._written, sequence))

    def _placed(self, first: int) -> range:
        """Chooses replicas for the next step of the sequences that wait for each other."""
        group = range(first, min(first + self.system.together, self._num))
        self._unread[first // self.system.together] = len(group)
        for sequence in group:
            if (sequence - first) % self.system.siblings == 0:
                home, reader = self.rng.randrange(self.system.replicas), self.rng.randrange(self.system.verifiers)
            self._home[sequence], self._reader[sequence] = home, reader
        return group

    # a step on its way round

    def _written(self, sequence: int) -> None:
        channel = self._polls[self._home[sequence]]
        channel.waiting.append(sequence)
        self._poll(channel)

    def _poll(self, channel: _Channel) -> None:
        """A reply to the poll, which goes out at its pace and takes the step to the driver."""
        if not channel.waiting or channel.under_way:
            return
        channel.under_way = 1
        self._after(max(0.0, channel.not_before - self.now), lambda: self._replied(channel))

    def _replied(self, channel: _Channel) -> None:
        steps, channel.waiting = channel.waiting, []
        channel.not_before = self.now + pace_s(self._per_replica)
        looks = self.system.replicas + self.system.verifiers
        self.calls[channel.kind] += 1
        work = self.costs.call_s + len(steps) * (self.costs.step_s + looks * self.costs.look_s)
        self._work(work, lambda: self._delivered(channel, steps))

    def _delivered(self, channel: _Channel, steps: list[int]) -> None:
        channel.under_way = 0
        self._poll(channel)
        for sequence in steps:
            self._reads[self._reader[sequence]].waiting.append(sequence)
        for reader in {self._reader[sequence] for sequence in steps}:
            self._send(self._reads[reader], self.system.reading(self.rng, self.system.read_s), self._read)

    def _read(self, steps: list[int]) -> None:
        """Verdicts are there. The next steps are asked for where no other has to be waited for."""
        asked: list[int] = []
        for sequence in steps:
            self.steps += 1
            group = sequence // self.system.together
            self._unread[group] -= 1
            if not self._unread[group]:
                asked += self._placed(group * self.system.together)
        for sequence in asked:
            self.step_seconds += self.now - self._asked[sequence]
            self._asked[sequence] = self.now
            self._updates[self._home[sequence]].waiting.append(sequence)
        for home in {self._home[sequence] for sequence in asked}:
            self._send(self._updates[home], 0.0, lambda steps: None, self._begun)

    def _begun(self, steps: list[int]) -> None:
        for sequence in steps:
            write_s = self.system.writing(self.rng, self.system.write_s)
            self._after(write_s, partial(self._written, sequence))

    # calls and the event loop

    def _send(
        self,
        channel: _Channel,
        seconds: float,
        answered: Callable[[list[int]], None],
        arrived: Callable[[list[int]], None] = lambda steps: None,
    ) -> None:
        """A call with all that waits, if one more may be under way."""
        if not channel.waiting or channel.under_way == channel.limit:
            return
        channel.under_way += 1
        self.calls[channel.kind] += 1
        steps, channel.waiting = channel.waiting, []
        self._after(self.system.trip_s / 2, lambda: arrived(steps))

        def back() -> None:
            channel.under_way -= 1
            answered(steps)
            self._send(channel, seconds, answered, arrived)

        self._after(self.system.trip_s + seconds, lambda: self._work(self.costs.call_s, back))

    def _work(self, seconds: float, follow: Callable[[], None]) -> None:
        """The event loop does this in its turn. What takes no time waits for none."""
        if not seconds:
            follow()
            return
        self._queue.append((self.system.work(self.rng, seconds), follow))
        if not self._working:
            self._next()

    def _next(self) -> None:
        self._working = bool(self._queue)
        if self._working:
            seconds, follow = self._queue.popleft()
            self.busy_s += seconds

            def done() -> None:
                follow()
                self._next()

            self._after(seconds, done)

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), happen))


def simulate(system: System, costs: LoopCosts, *, seconds: float = 20.0, seed: int = 0) -> Outcome:
    """What happens in so many seconds, after half of that to warm up."""
    driver = _Driver(system, costs, seed)
    driver.begin()
    driver.run(seconds / 2)
    steps, calls, busy_s, step_seconds = driver.steps, Counter(driver.calls), driver.busy_s, driver.step_seconds
    driver.run(1.5 * seconds)
    done = driver.steps - steps
    return Outcome(
        steps_per_s=system.drivers * done / seconds,
        busy=(driver.busy_s - busy_s) / seconds,
        calls={kind: (driver.calls[kind] - calls[kind]) / max(1, done) for kind in driver.calls},
        step_s=(driver.step_seconds - step_seconds) / max(1, done),
    )
