"""A large cluster, by the simulation: how many drivers it needs, and what else is full by then."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from experiments.bench.control_plane.simulation import LoopCosts, Outcome, System, simulate

MOST_BUSY = 0.8  # share of the time that an event loop may work: above it steps wait for their turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What is asked for."""

    replicas: int = 1000
    sequences_per_replica: int = 256
    tokens_per_s: float = 30.0  # of each sequence
    step_tokens: int = 50
    replicas_per_verifier: int = 4
    read_s: float = 0.004  # a call of the verifier
    together: int = 16  # children of a round of beam search
    siblings: int = 4  # of one prefix

    @property
    def most_steps_per_s(self) -> float:
        """If no step had to wait for anything but its tokens."""
        return self.replicas * self.sequences_per_replica * self.tokens_per_s / self.step_tokens

    def system(self, drivers: int) -> System:
        return System(
            drivers=drivers,
            replicas=self.replicas,
            verifiers=max(1, self.replicas // self.replicas_per_verifier),
            sequences=self.replicas * self.sequences_per_replica,
            together=self.together,
            siblings=self.siblings,
            write_s=self.step_tokens / self.tokens_per_s,
            read_s=self.read_s,
        )


def drivers_needed(cluster: Cluster, costs: LoopCosts, *, seconds: float = 10.0) -> tuple[int, Outcome]:
    """The fewest drivers whose event loops are at most `MOST_BUSY`, to a hundredth of their number."""
    few, many = 0, max(1, ceil(cluster.most_steps_per_s * costs.of_step(calls=0, looks=0)))
    found = simulate(cluster.system(many), costs, seconds=seconds)
    while found.busy > MOST_BUSY:
        few, many = many, 2 * many
        found = simulate(cluster.system(many), costs, seconds=seconds)
    while many - few > max(1, many // 100):
        middle = (few + many) // 2
        tried = simulate(cluster.system(middle), costs, seconds=seconds)
        if tried.busy <= MOST_BUSY:
            many, found = middle, tried
        else:
            few = middle
    return many, found


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What the processes of which there is one each do; seconds are of CPU."""

    row_s: float  # the command, for a row
    watch_s: float  # the keeper, for a replica in a second
    member_bytes: float  # of a replica, in the list of members that the keeper sends


CHANGES_PER_RESTART = 2  # of the list of members: a replica has left, and another one serves


def told(cluster: Cluster, steps_per_row: int, costs: LoopCosts, overheads: Overheads) -> Mapping[str, Any]:
    """What the cluster needs, and what of it is full. A busy share above 1 is more than one process can do."""
    drivers, found = drivers_needed(cluster, costs)
    copies = CHANGES_PER_RESTART * drivers * cluster.replicas
    return {
        "replicas": cluster.replicas,
        "drivers": drivers,
        "steps_per_s": round(found.steps_per_s),
        "share_of_what_engines_can_write": found.steps_per_s / cluster.most_steps_per_s,
        "event_loop_busy": found.busy,
        "calls_per_step": sum(found.calls.values()),
        "step_s": found.step_s,
        "steps_per_s_of_a_driver": found.steps_per_s / drivers,
        "writer_busy": found.steps_per_s / steps_per_row * overheads.row_s,
        "steps_per_s_of_a_writer": steps_per_row / overheads.row_s,
        "keeper_busy": cluster.replicas * overheads.watch_s,
        "mib_sent_per_restart": copies * overheads.member_bytes / 2**20,
    }
