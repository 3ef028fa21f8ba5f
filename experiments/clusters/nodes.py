"""Asks every node of a cluster what it has. A node that does not answer is an answer, too."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.clusters import node as on_the_node
from experiments.clusters.node import NodeProbe
from orchestrator.core.errors import ReplicaError
from orchestrator.ray_calls import answered, create_actor, kill_actor, submit

ANSWER_S = 90.0  # to start a process on a busy node, and import torch there
_CLOCK_S = 5.0
_CLOCK_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What one node has."""

    where: str
    ray_gpus: float  # that Ray counts
    has: Mapping[str, Any] = field(default_factory=dict)  # as `NodeProbe.report` says it
    skew_s: float | None = None  # its clock minus ours; None: it did not tell
    skew_error_s: float = 0.0  # half of the round trip
    silent: str = ""  # why it did not answer


async def ask_nodes(folders: Sequence[str], results: str, probe: str, answer_s: float = ANSWER_S) -> list[NodeReport]:
    """One report for each node that Ray counts as alive. Ray must be initialised."""
    import ray
    from ray import cloudpickle

    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    cloudpickle.register_pickle_by_value(on_the_node)
    try:
        return await asyncio.gather(*(_ask(node, (folders, results, probe), answer_s) for node in nodes))
    finally:
        cloudpickle.unregister_pickle_by_value(on_the_node)


async def _ask(node: Mapping[str, Any], wanted: tuple[Sequence[str], str, str], answer_s: float) -> NodeReport:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = f"{node['NodeManagerHostname']} {node['NodeID'][:6]}"
    gpus = float(node["Resources"].get("GPU", 0))
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    asked = create_actor(NodeProbe, num_cpus=0, max_concurrency=1, scheduling_strategy=there)
    try:
        has = await answered(submit(lambda: asked.report.remote(*wanted)), where, answer_s)
        skew_s, skew_error_s = await _skew(asked, where)
        return NodeReport(where=where, ray_gpus=gpus, has=has, skew_s=skew_s, skew_error_s=skew_error_s)
    except ReplicaError as error:
        return NodeReport(where=where, ray_gpus=gpus, silent=str(error).removeprefix(f"{where}: "))
    finally:
        kill_actor(asked)


async def _skew(asked: Any, where: str) -> tuple[float, float]:
    """Of the quickest round trip: how far the clock there is ahead of the middle of it, and half of it."""
    found = []
    for _ in range(_CLOCK_TRIES):
        asked_at, began = time.time(), time.monotonic()
        there = await answered(submit(asked.clock.remote), where, _CLOCK_S)
        half = (time.monotonic() - began) / 2
        found.append((half, there - (asked_at + half)))
    half, skew_s = min(found)
    return skew_s, half
