"""Faults in a run, on one Ray node: drivers, a keeper, a verifier and a server that fail while a run goes on."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from experiments.bench.faults import scene as scenes
from experiments.bench.faults.campaign import Campaign
from experiments.bench.faults.measure import POLICY, scripted, truth_of
from experiments.bench.faults.run import plan_of
from experiments.bench.faults.scene import Scene, pool_of
from experiments.bench.faults.schedule import Strike, schedule
from experiments.bench.faults.server import scripted_engine
from experiments.bench.faults.table import Fault
from orchestrator.pools.service import pool_actor
from orchestrator.ray_calls import named_actors
from orchestrator.replicas.blueprint import NAMESPACE

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(600)]
QUICK = ("driver killed", "keeper killed", "verifier raises", "server drops connections")


async def disturbed(folder: Path, strikes: list[Strike] | None, num_problems: int) -> list[Fault]:
    """None: of all kinds that there are."""
    faults: list[Fault] = []
    (folder / "orders").mkdir()
    with ExitStack() as stack:
        engine = stack.enter_context(scripted_engine(POLICY))
        settings = scripted(folder / "results", ray.get_runtime_context().gcs_address, engine)
        plan = plan_of(folder, {**settings, "data": {**settings["data"], "num_problems": num_problems}})
        async with pool_of(plan, plan.config.name, folder / "orders") as spec:
            scene = Scene(spec=spec, orders=folder / "orders", engine=engine)
            campaign = Campaign("test", scene, plan, truth_of(plan), faults, pace_s=0.1, say=print)
            await campaign.undisturbed()
            await campaign.strike(strikes or schedule(campaign.kinds, len(campaign.kinds), 0))
    return faults


async def test_a_run_that_faults_strike_has_all_rows_and_true_scores_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(named_actors(NAMESPACE))
    strikes = [replace(strike, wait_s=0.2) for strike in schedule(QUICK, len(QUICK), 0)]
    faults = await disturbed(tmp_path, strikes, num_problems=12)
    assert sorted(fault.kind for fault in faults) == sorted(QUICK)
    assert [fault for fault in faults if not fault.survived] == []
    assert set(named_actors(NAMESPACE)) <= before and pool_actor("scripted") is None


@pytest.mark.engines
async def test_so_it_is_with_every_kind_of_fault_that_one_node_can_have(tmp_path: Path) -> None:
    faults = await disturbed(tmp_path, None, num_problems=100)
    assert len({fault.kind for fault in faults}) == 13
    assert [fault for fault in faults if not fault.survived] == []


async def test_what_does_not_come_about_in_time_is_told() -> None:
    async def never() -> bool:
        return False

    assert not await scenes.until(never, within_s=0.01, pause_s=0.001)
