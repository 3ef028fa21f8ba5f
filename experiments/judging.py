"""Every verifier of a YAML file on the same solutions: what each finds, and what it costs (`headrace judge CONFIG`).

Solutions are sampled and labelled once; then one verifier after the other is opened, judges them all and is closed.
What is done is in Parquet, so that a run can be resumed. A solution that a verifier can't judge has no score, and is
counted.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import MISSING, OmegaConf

from experiments.config import load_data, load_yaml, resolve_path
from experiments.datasets import DataConfig, Dataset
from experiments.figure import si
from experiments.graders import make_grader
from experiments.labelling.labellers import Exact
from experiments.labelling.sources import Labelled, Sampled, as_labelled
from experiments.metrics import Interval, Pool, bootstrap_mean, prm_at_k, vote_at_k
from experiments.tables import Cells, percent
from experiments.tinymath.task import generate
from orchestrator.answers import extract_answer
from orchestrator.checkpoints import check_policy_checkpoint
from orchestrator.cluster import connected
from orchestrator.config import PolicyConfig, RayConfig, StepConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Trajectory
from orchestrator.core.protocols import Policy, Sampling, Verifier
from orchestrator.policy.pool import PolicyPool
from orchestrator.session import SearchSession
from orchestrator.verifier.check import check_verifier, num_actors, scores_steps, with_paths
from orchestrator.verifier.open import open_verifier
from strategies.aggregation import Aggregation, aggregate
from verifiers.metrics import auroc, first_error_accuracy, labelled_steps
from verifiers.training.labelled import LabelledSolution, read_labelled, write_labelled

RUN_FILE, SOLUTIONS, TABLE = "run.yaml", "solutions.parquet", "verifiers.md"
_NUM_RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Solutions of problems, and the verifiers that judge them."""

    name: str = MISSING
    data: DataConfig = MISSING
    policy: PolicyConfig = MISSING
    verifiers: dict[str, VerifierConfig] = MISSING  # by what the table calls them
    n: int = 64  # solutions of each problem
    sampling: Sampling = field(default_factory=Sampling)
    steps: StepConfig = field(default_factory=StepConfig)
    aggregation: Aggregation = Aggregation.last
    seed: int = 0
    problems_in_flight: int = 32
    results_dir: str = "results"
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        for name in (self.name, *self.verifiers):
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"name: wanted a plain file name, got {name!r}")
        for name in ("n", "problems_in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        if not self.verifiers:
            raise ValueError("verifiers: wanted at least one, got none")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePlan:
    """What has passed every check that needs no model."""

    config: JudgeConfig
    policy: PolicyConfig
    verifiers: dict[str, VerifierConfig]
    dataset: Dataset
    resolved_yaml: str

    @property
    def folder(self) -> Path:
        return Path(self.config.results_dir) / self.config.name


def plan_judging(config_path: Path, overrides: Sequence[str]) -> JudgePlan:
    """Reads and checks the configuration, the data and the checkpoints' outsides. Raises UserError."""
    config, resolved_yaml = load_yaml(config_path, JudgeConfig, overrides)
    policy = replace(config.policy, model=resolve_path(config.policy.model))
    check_policy_checkpoint(policy.model)
    verifiers = {}
    for name, verifier in config.verifiers.items():
        try:
            verifiers[name] = with_paths(verifier, resolve_path)
            check_verifier(verifiers[name])
        except UserError as error:
            raise UserError(f"verifiers.{name}: {error}") from None
    return JudgePlan(
        config=config, policy=policy, verifiers=verifiers, dataset=load_data(config.data), resolved_yaml=resolved_yaml
    )


def open_folder(plan: JudgePlan, *, resume: bool, overwrite: bool) -> None:
    """Makes the results folder; one that is there is resumed or replaced on purpose only. Raises UserError."""
    file = plan.folder / RUN_FILE
    if overwrite:
        shutil.rmtree(plan.folder, ignore_errors=True)
    elif file.exists() and not resume:
        raise UserError(f"judge: {plan.folder} exists; wanted --resume, --overwrite or another name")
    elif file.exists() and _solutions_of(file.read_text(encoding="utf-8")) != _solutions_of(plan.resolved_yaml):
        raise UserError(
            f"judge: {plan.folder} holds solutions of another configuration; wanted --overwrite or another name"
        )
    plan.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(plan.resolved_yaml, encoding="utf-8")


def _solutions_of(resolved_yaml: str) -> dict[str, Any]:
    """What the solutions depend on."""
    config = OmegaConf.to_container(OmegaConf.create(resolved_yaml))
    assert isinstance(config, dict)
    return {
        str(key): value for key, value in config.items() if key in ("data", "policy", "n", "sampling", "steps", "seed")
    }


async def judge(plan: JudgePlan, *, on_stage: Callable[[str], None]) -> Cells:
    """Judges what is not judged yet, and returns the table. Leaves nothing running, also when cancelled."""
    actors = [num_actors(verifier, plan.policy.model) for verifier in plan.verifiers.values()]
    with connected(plan.config.ray, plan.policy.replicas + max(actors)):
        async with AsyncExitStack() as stack:
            on_stage("starting the policy")
            policy = await stack.enter_async_context(PolicyPool.open(plan.policy, plan.config.steps))
            if not (plan.folder / SOLUTIONS).exists():
                on_stage("sampling")
                write_labelled(await _sample(plan, policy), plan.folder / SOLUTIONS)
            problems = await _problems(plan)
            for name, verifier in plan.verifiers.items():
                file = plan.folder / f"{name}.parquet"
                if not file.exists():
                    on_stage(f"judging with {name}")
                    async with AsyncExitStack() as verifier_stack:
                        judging = await open_verifier(verifier_stack, verifier, policy=policy)
                        rows = await _judge(plan, policy, judging, problems)
                    part = file.with_suffix(".part")
                    pd.DataFrame(rows).to_parquet(part)
                    part.replace(file)
    return table(plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """A problem's solutions, with their labels and whether their answers are right."""

    solutions: Sequence[Trajectory]
    labels: Sequence[Sequence[float | None]]
    correct: Sequence[bool]


async def _sample(plan: JudgePlan, policy: Policy) -> list[LabelledSolution]:
    """Samples of every problem, with exact labels where the data has them."""
    config = plan.config
    source = Sampled(open_session=lambda: _session(plan, policy, None), n=config.n)
    exact = config.data.name == "tinymath"
    made = generate(config.data.split, len(plan.dataset.examples)) if exact else []
    labeller = Exact(problems={problem.id: problem for problem in made})
    places = asyncio.Semaphore(config.problems_in_flight)

    async def sample(index: int) -> list[LabelledSolution]:
        problem = plan.dataset.examples[index].problem
        async with places:
            solutions, _ = await source.solutions(problem)
        if exact:
            labels, _ = await labeller.label(problem, solutions)
        else:
            labels = [(None,) * len(solution.steps) for solution in solutions]
        return [
            as_labelled(solution, its_labels, "exact" if exact else "none", config.steps.delimiters)
            for solution, its_labels in zip(solutions, labels, strict=True)
        ]

    async with asyncio.TaskGroup() as tasks:
        sampling = [tasks.create_task(sample(index)) for index in range(len(plan.dataset.examples))]
    return [solution for task in sampling for solution in task.result()]


async def _problems(plan: JudgePlan) -> list[_Problem]:
    """What was sampled, as trajectories, graded."""
    labelled: dict[str, list[LabelledSolution]] = {}
    for solution in read_labelled(plan.folder / SOLUTIONS):
        labelled.setdefault(solution.problem_id, []).append(solution)
    source = Labelled(solutions_of=labelled, delimiter=plan.config.steps.delimiters[0], extract_answer=extract_answer)
    references = {example.problem.id: example.reference for example in plan.dataset.examples}
    problems = []
    async with make_grader(plan.dataset.grader, references) as grader:
        for example in plan.dataset.examples:
            solutions, _ = await source.solutions(example.problem)
            correct = await grader.grade(example.problem, [solution.answer for solution in solutions])
            labels = [solution.labels for solution in labelled[example.problem.id]]
            problems.append(_Problem(solutions=solutions, labels=labels, correct=correct))
    return problems


async def _judge(
    plan: JudgePlan, policy: Policy, verifier: Verifier, problems: Sequence[_Problem]
) -> list[dict[str, object]]:
    """A row for each solution: its step scores (None: not judged) and its share of what its problem cost."""
    places = asyncio.Semaphore(plan.config.problems_in_flight)

    async def judge_one(problem: _Problem) -> list[dict[str, object]]:
        async with places, _session(plan, policy, verifier) as session:
            judged = await session.score(problem.solutions)
        share = 1 / len(problem.solutions)
        return [
            {
                "problem_id": solution.problem.id,
                "answer": solution.answer,
                "correct": correct,
                "labels": list(labels),
                "scores": [step.score.mean if step.score else None for step in solution.steps]
                if solution.unjudged is None
                else None,
                "unjudged": solution.unjudged,
                "tokens": session.ledger.verifier_tokens * share,
                "flops": session.ledger.verifier_flops * share,
            }
            for solution, labels, correct in zip(judged, problem.labels, problem.correct, strict=True)
        ]

    async with asyncio.TaskGroup() as tasks:
        judging = [tasks.create_task(judge_one(problem)) for problem in problems]
    return [row for task in judging for row in task.result()]


def _session(plan: JudgePlan, policy: Policy, verifier: Verifier | None) -> SearchSession:
    return SearchSession(
        policy=policy,
        verifier=verifier,
        sampling=plan.config.sampling,
        budget=Budget(),
        run_seed=plan.config.seed,
        extract_answer=extract_answer,
    )


def table(plan: JudgePlan) -> Cells:
    """Of the verifiers that have judged, from their Parquet; written into the folder, too."""
    n, rows = plan.config.n, []
    for name, verifier in plan.verifiers.items():
        judged = pd.read_parquet(plan.folder / f"{name}.parquet")
        rows.append(_line(name, judged, plan.config.aggregation, by_steps=scores_steps(verifier)))
    pools = [_pool(group, plan.config.aggregation) for _, group in judged.groupby("problem_id", sort=False)]
    by_chance = np.mean([np.mean(pool.correct) for pool in pools])
    by_majority = np.mean([vote_at_k(pool, [n], weighted=False)[n] for pool in pools])
    cells = Cells(
        title=f"Verifiers on {len(plan.dataset.examples)} problems, {n} solutions each (%, bootstrap 95% interval over "
        f"problems); a random choice is right in {by_chance:.1%}, a majority in {by_majority:.1%}",
        headers=(
            "verifier",
            "step AUROC",
            "first error",
            f"best-of-{n}",
            f"weighted vote of {n}",
            "tokens",
            "FLOPs",
            "not judged",
        ),
        rows=rows,
        wide=("FLOPs", "not judged"),
    )
    (plan.folder / TABLE).write_text(cells.markdown() + "\n", encoding="utf-8")
    return cells


def _line(name: str, judged: pd.DataFrame, how: Aggregation, *, by_steps: bool) -> list[str]:
    """Tokens and FLOPs are per solution."""
    groups = [group for _, group in judged.groupby("problem_id", sort=False)]
    pools = [_pool(group, how) for group in groups]
    chosen = bootstrap_mean([prm_at_k(pool, len(pool)) for pool in pools])
    voted = bootstrap_mean([vote_at_k(pool, [len(pool)], weighted=True)[len(pool)] for pool in pools])
    by_problem = [(_rows(group, "scores"), _rows(group, "labels")) for group in groups if group["scores"].notna().any()]
    known = any(label is not None for _, rows in by_problem for row in rows for label in row)
    steps, first = "-", "-"
    if by_steps and known:
        steps = percent(_auroc(by_problem))
        first = percent(bootstrap_mean([first_error_accuracy(scores, labels) for scores, labels in by_problem]))
    return [
        name,
        steps,
        first,
        percent(chosen),
        percent(voted),
        f"{judged['tokens'].mean():,.0f}",
        si(judged["flops"].mean()),
        f"{judged['scores'].isna().mean():.1%}",
    ]


def _pool(group: pd.DataFrame, how: Aggregation) -> Pool:
    scores = [None if row is None else [score for score in row if score is not None] for row in group["scores"]]
    return Pool(
        answers=[None if pd.isna(answer) else answer for answer in group["answer"]],
        correct=group["correct"].tolist(),
        scores=[None if row is None else aggregate(row, how) for row in scores],
    )


def _rows(group: pd.DataFrame, column: str) -> list[list[float]]:
    return [list(row) for row in group[group["scores"].notna()][column]]


def _auroc(by_problem: Sequence[tuple[list[list[float]], list[list[float]]]]) -> Interval:
    """Over all steps of all solutions, with an interval by a bootstrap over problems."""
    steps = [labelled_steps(scores, labels) for scores, labels in by_problem]
    rng = np.random.default_rng(0)

    def over(indices: Sequence[int]) -> float:
        return auroc(np.concatenate([steps[i][0] for i in indices]), np.concatenate([steps[i][1] for i in indices]))

    resampled = [over(rng.integers(len(steps), size=len(steps)).tolist()) for _ in range(_NUM_RESAMPLES)]
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(value=over(range(len(steps))), low=float(low), high=float(high))
