"""What `headrace status` shows of each replica of a named pool."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.replicas.keeper import Standing
from orchestrator.replicas.scaling import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRow:
    """A replica at one time. None: it does not tell, or has no such thing."""

    part: str
    index: int
    losses: int  # of its place
    stage: str  # how far it is
    host: str | None = None
    pid: int | None = None
    clients: int | None = None
    running: int | None = None  # sequences in the engine
    waiting: int | None = None  # for room in it, or to be read
    tokens: int | None = None  # sampled, or read, since it started
    reserved: float | None = None  # share of the KV cache that running sequences may fill
    states: int | None = None  # of trajectories that a verifier holds
    preemptions: int | None = None  # of sequences by the engine, since it started


_STAGES = {
    Stage.SERVES: "serves",
    Stage.DRAINS: "drains",
    Stage.LOADS: "loads",
    Stage.WAITS: "no room",
    Stage.IDLE: "not wanted",
    Stage.EMPTY: "given up",
}


def replica_row(part: str, standing: Standing, stats: Mapping[str, int] | None) -> ReplicaRow:
    """From what the replica reports; None: it did not answer, or there is none."""
    found, member = stats or {}, standing.member
    reserved = None
    if member is not None and isinstance(member.info, PolicyInfo) and "reserved_tokens" in found:
        reserved = found["reserved_tokens"] / member.info.kv_capacity_tokens
    return ReplicaRow(
        part=part,
        index=standing.index,
        losses=standing.losses,
        stage=_STAGES[standing.stage],
        host=None if member is None else member.host,
        pid=None if member is None else member.pid,
        clients=found.get("clients"),
        running=found.get("running"),
        waiting=found.get("waiting"),
        tokens=found.get("sampled_tokens", found.get("tokens_read")),
        reserved=reserved,
        states=found.get("states"),
        preemptions=found.get("preemptions"),
    )
