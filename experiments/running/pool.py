"""Composition of `headrace up` and `status`: one YAML file to a named pool that outlives the command."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import MISSING
from rich import box
from rich.table import Table

from experiments.config import load_yaml, resolve_path
from experiments.running.down import forget
from orchestrator.cluster import connected
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.policy.actor import first_of_threads
from orchestrator.policy.resolve import refuse_chat_api, resolve_policy
from orchestrator.pools import local_ray
from orchestrator.pools.record import (
    PoolRecord,
    check_name,
    log_path,
    records,
    running_record,
    started_before,
    write_record,
)
from orchestrator.pools.service import close_pool, create_pool_actor, pool_actor, taken
from orchestrator.pools.spec import PoolSpec
from orchestrator.pools.status import ReplicaRow
from orchestrator.ray_calls import answered, submit
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.resolve import resolve

_ANSWER_S = 30.0
_RATE_S = 1.0  # over which tokens per second are measured


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """A named pool."""

    name: str = MISSING
    policy: PolicyConfig = MISSING
    verifier: VerifierConfig | None = None
    steps: StepConfig = field(default_factory=StepConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        check_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """A pool that has passed every check that needs no model."""

    spec: PoolSpec
    ray: RayConfig


def plan_pool(config_path: Path, overrides: list[str]) -> PoolPlan:
    """Reads and checks the configuration and the checkpoints' outsides. Raises UserError."""
    config, _ = load_yaml(config_path, PoolConfig, overrides)
    policy = resolve_policy(config.policy, resolve_path)
    refuse_chat_api(policy, "a pool")
    verifier = None if config.verifier is None else resolve(config.verifier, resolve_path)
    if verifier is not None:
        check_verifier(verifier)
    if any(record.name == config.name for record in records()):
        raise started_before(config.name)
    threads = first_of_threads(os.environ.get("OMP_NUM_THREADS", ""))
    spec = PoolSpec(name=config.name, policy=policy, steps=config.steps, verifier=verifier, threads=threads)
    return PoolPlan(spec=spec, ray=config.ray)


def up(plan: PoolPlan, on_stage: Callable[[str], None]) -> PoolRecord:
    """Starts the pool and leaves it running; on a local Ray of its own where no address is set.

    Raises UserError and ReplicaError, with nothing left running.
    """
    name = plan.spec.name
    with ExitStack() as undo:
        on_stage("starting Ray")
        pid, address = None, plan.ray.address
        log_path(name).parent.mkdir(parents=True, exist_ok=True)
        if address is None:
            num_replicas = sum(made.replicas for made in plan.spec.blueprints().values())
            num_cpus = plan.ray.num_cpus or max(os.cpu_count() or 1, num_replicas)
            address_file = log_path(name).with_suffix(f".{os.getpid()}.address")  # another `up` may be at it
            address, pid = local_ray.start(num_cpus, address_file, log_path(name))
            undo.callback(local_ray.end, pid)
        record = PoolRecord(name=name, address=address, pid=pid)
        write_record(record)  # now, so that `down` finds what a killed `up` leaves
        undo.callback(forget, record)
        with connected(replace(plan.ray, address=address), 0):
            if pool_actor(name) is not None:
                undo.pop_all()
                raise UserError(f"pool: {name} already runs on that Ray; it is known here now")
            on_stage("starting the policy" + (" and the verifier" if plan.spec.verifier else ""))
            keeper = create_pool_actor(plan.spec)
            try:
                asyncio.run(answered(submit(keeper.open.remote), f"pool {name}: its keeper", float("inf")))
            except BaseException:
                if pid is None:  # else all of it ends with its Ray
                    if pool_actor(name) not in (keeper, None):  # both found the name free
                        raise taken(name) from None
                    asyncio.run(close_pool(name))
                raise
        undo.pop_all()
    return record


@contextmanager
def statuses(name: str | None) -> Iterator[Callable[[], Table]]:
    """A function that makes a table of a pool's replicas as they are now. Raises UserError where there is no pool."""
    record = running_record(name)
    with connected(RayConfig(address=record.address), 0):
        keeper = pool_actor(record.name)
        if keeper is None:
            raise UserError(f"pool: {record.name} is gone; headrace down {record.name} forgets it")

        def ask() -> tuple[list[ReplicaRow], int]:
            rows, drivers = asyncio.run(answered(submit(keeper.status.remote), f"pool {record.name}", _ANSWER_S))
            return rows, drivers

        def now() -> Table:
            before, began = {(row.part, row.index, row.pid): row.tokens for row in ask()[0]}, time.monotonic()
            time.sleep(_RATE_S)
            rows, drivers = ask()
            return _table(record, rows, drivers, before, time.monotonic() - began)

        yield now


def _table(
    record: PoolRecord,
    rows: Sequence[ReplicaRow],
    drivers: int,
    before: dict[tuple[str, int, int | None], int | None],
    seconds: float,
) -> Table:
    attached = f"{drivers} command{'' if drivers == 1 else 's'} attached"
    title = f"{record.name} on Ray {record.address}, {attached}"
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)  # for 80 columns
    several = len({row.host for row in rows if row.host is not None}) > 1  # machines
    for column in ("replica", "state", *(["machine"] if several else [])):
        table.add_column(column, no_wrap=True)
    for column in ("pid", "running", "waiting", "tokens/s", "KV", "states", "losses"):
        table.add_column(column, justify="right")
    for row in rows:
        earlier = before.get((row.part, row.index, row.pid))
        rate = None if row.tokens is None or earlier is None else (row.tokens - earlier) / seconds
        table.add_row(
            f"{row.part} {row.index}",
            row.stage,
            *([row.host or "-"] if several else []),
            "-" if row.pid is None else str(row.pid),
            _shown(row.running),
            _shown(row.waiting),
            _shown(rate),
            "-" if row.reserved is None else f"{row.reserved:.0%}",
            _shown(row.states),
            str(row.losses),
        )
    return table


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
