"""Faults at random times, drawn from a seed, in runs with two drivers over three Ray nodes: is each run whole, and what
did the faults cost?

Most strike a pool whose policy is asked over HTTP and written by a script, so that a restart takes seconds; the
verifier is the tiny streaming PRM. A few strike vLLM with the tiny policy. Scores are compared with those from scratch
in this process, tokens with those of a run that nothing disturbs. Two disks are filled: small ones of this command's
own, which Linux allows root, or whoever may mount.
"""

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer

from experiments.bench.core import Measured
from experiments.bench.faults.campaign import Campaign
from experiments.bench.faults.disks import Disk, small_disks
from experiments.bench.faults.endpoint import asked_endpoint
from experiments.bench.faults.leaks import Held, left
from experiments.bench.faults.nodes import Nodes, several_nodes
from experiments.bench.faults.processes import ENVIRONMENT, MARK
from experiments.bench.faults.rows import Truth
from experiments.bench.faults.run import plan_of
from experiments.bench.faults.scene import Scene, pool_of
from experiments.bench.faults.schedule import schedule
from experiments.bench.faults.server import MODEL, ScriptedEngine, scripted_engine
from experiments.bench.faults.table import Fault, table
from experiments.bench.tiny import MODELS
from experiments.running.run import Plan
from orchestrator.cluster import connected, set_environment
from orchestrator.core.config import RayConfig
from orchestrator.core.errors import UserError
from orchestrator.verifier.loading import load_host
from verifiers.streaming import StreamingHost

POLICY, PRM = str(MODELS / "policy"), str(MODELS / "prm")
ENOUGH_RESTARTS = 10_000
_NUM_NODES = 3
_RESULTS_MIB, _SHM_MIB = 32, 400
_ONE_REAL_IN = 25  # of the faults
_OF_ENGINES = ("policy actor killed", "policy actor stopped", "engine killed", "engine stopped")
_PACE_S = 0.4


async def measure(*, faults: int, seed: int, say: Callable[[str], None]) -> Measured:
    num_real = faults // _ONE_REAL_IN
    struck: list[Fault] = []
    undisturbed: dict[str, float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="hr-")))
        (folder / "orders").mkdir()
        mark = stack.enter_context(_environment())
        disks = _disks(stack, folder / "results", say)
        before = Held.now()
        try:
            with several_nodes(_NUM_NODES, folder) as nodes, connected(RayConfig(address=nodes.address), 0):
                with scripted_engine(POLICY) as engine:
                    plan = plan_of(folder, scripted(folder / "results", nodes.address, engine))
                    async with _scene(plan, folder, nodes, disks, engine) as scene:
                        campaign = Campaign("scripted", scene, plan, truth_of(plan), struck, pace_s=_PACE_S, say=say)
                        undisturbed["scripted"] = await campaign.undisturbed()
                        await campaign.strike(schedule(campaign.kinds, faults - num_real, seed))
                if num_real:
                    plan = plan_of(folder, real(folder / "results", nodes.address))
                    async with _scene(plan, folder, nodes, (None, None), None) as scene:
                        campaign = Campaign("vLLM", scene, plan, truth_of(plan), struck, pace_s=0.0, say=say)
                        undisturbed["vLLM"] = await campaign.undisturbed()
                        await campaign.strike(schedule(_OF_ENGINES, num_real, seed))
        finally:
            say(table(struck).markdown())
        leaks = await left(before, mark)
        for leak in leaks:
            say(f"LEFT at the end: {leak}")
    return _measured(struck, leaks, undisturbed, seed)


def scripted(results: Path, address: str, engine: ScriptedEngine) -> dict[str, Any]:
    """The configuration of a run over a scripted server: as YAML would have it."""
    policy = {
        "engine": "openai",
        "model": MODEL,
        "urls": [engine.url] * 2,
        "tokenizer": POLICY,
        "replicas": 2,
        "max_num_seqs": 64,
        "request_timeout_s": 10.0,
        "stall_timeout_s": 12.0,
    }
    # equal steps have scores that differ by rounding only, which may come out otherwise next time: one of them competes
    beam = {"name": "beam_search", "n": 4, "beam_width": 2, "deduplicate": True}
    strategies = [{"name": "best_of_n", "n": 4}, beam]
    return {**_common(results, address, "scripted", policy), "strategies": strategies, "problems_in_flight": 8}


def real(results: Path, address: str) -> dict[str, Any]:
    """The same over vLLM with the tiny policy. Few searches at a time: the run must last for some restarts."""
    policy = {"model": POLICY, "replicas": 2, "kv_cache_gib": 0.25, "max_num_seqs": 32, "stall_timeout_s": 15.0}
    strategies = [{"name": "best_of_n", "n": 2}]
    return {**_common(results, address, "vllm", policy), "strategies": strategies, "problems_in_flight": 2}


def truth_of(plan: Plan) -> Truth:
    """The plan's verifier, in this process."""
    assert plan.verifier is not None
    host = load_host(plan.verifier)
    assert isinstance(host, StreamingHost)
    tokenizer = AutoTokenizer.from_pretrained(POLICY, local_files_only=True)
    prompts = {}
    for example in plan.dataset.examples:
        messages = [{"role": message.role, "content": message.content} for message in example.problem.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts[example.problem.id] = tuple(tokenizer.encode(text, add_special_tokens=False))
    return Truth(host, prompts)


def _common(results: Path, address: str, pool: str, policy: dict[str, Any]) -> dict[str, Any]:
    kept = {"max_restarts": ENOUGH_RESTARTS, "placement": {"spread": True}}
    verifier = {"name": "streaming_prm", "model": PRM, "replicas": 2, "slots": 256, "host_slots": 256}
    return {
        "name": pool,
        "data": {"name": "tinymath", "split": "test", "num_problems": 100},
        "policy": {**policy, **kept},
        "verifier": {**verifier, "stall_timeout_s": 12.0, **kept},
        "sampling": {"temperature": 1.0, "max_tokens": 160},
        "problem_timeout_s": 600.0,
        "drivers": 2,
        "pool": pool,
        "ray": {"address": address},
        "results_dir": str(results),
    }


def _disks(stack: ExitStack, results: Path, say: Callable[[str], None]) -> tuple[Disk | None, Disk | None]:
    results.mkdir()
    try:
        return stack.enter_context(small_disks(results, results_mib=_RESULTS_MIB, shm_mib=_SHM_MIB))
    except UserError as error:
        say(f"no disk is filled: {error}")
        return None, None


@asynccontextmanager
async def _scene(
    plan: Plan, folder: Path, nodes: Nodes, disks: tuple[Disk | None, Disk | None], engine: ScriptedEngine | None
) -> AsyncIterator[Scene]:
    """A pool, an endpoint on it where there is a scripted engine, and what else there is to strike."""
    name, orders = plan.config.name, folder / "orders"
    async with pool_of(plan, name, orders) as spec, AsyncExitStack() as stack:
        results, shm = disks
        scene = Scene(spec=spec, orders=orders, engine=engine, nodes=nodes, results=results, shm=shm)
        if engine is not None:
            scene.asker = await stack.enter_async_context(asked_endpoint(plan, name))
        yield scene


@contextmanager
def _environment() -> Iterator[str]:
    """What all processes inherit. The mark by which they are found."""
    mark = uuid.uuid4().hex
    before = dict(os.environ)
    os.environ.update({**ENVIRONMENT, MARK: mark})
    set_environment()
    try:
        yield mark
    finally:
        os.environ.clear()
        os.environ.update(before)


def _measured(struck: Sequence[Fault], leaks: Sequence[str], undisturbed: dict[str, float], seed: int) -> Measured:
    survived = [float(fault.survived) for fault in struck]
    by_kind = [
        sum(f.survived for f in struck if f.kind == kind) / sum(f.kind == kind for f in struck)
        for kind in {fault.kind for fault in struck}
    ]
    cells = table(struck)
    return Measured(
        ratio=sum(survived) / len(survived),
        ratio_min=min(by_kind),
        ratio_max=max(by_kind),
        baseline="the rows of the same run undisturbed, and scores from scratch; share of faults that changed nothing",
        goal="1, over 200 faults or more",
        settings={"faults": len(struck), "seed": seed, "nodes": _NUM_NODES, "drivers": 2},
        details={
            "by_kind": [dict(zip(cells.headers, row, strict=True)) for row in cells.rows],
            "left_at_the_end": list(leaks),
            "undisturbed_s": undisturbed,
        },
    )
