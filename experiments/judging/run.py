"""Every verifier of a YAML file on the same solutions: what each finds, and what it costs (`headrace judge CONFIG`).

Solutions are sampled and labelled once; then one verifier after the other is opened, judges them all and is closed.
What is done is in Parquet, problem by problem, so that a run can be resumed. A solution that a verifier can't judge has
no score, and is counted.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING, OmegaConf

from experiments.analysis.answer_shares import OnAnswer
from experiments.config import FREE_KEYS, load_data, load_yaml, resolve_path
from experiments.data.datasets import DataConfig, Dataset
from experiments.data.graders import answers_of, grader_of
from experiments.judging.rows import Judgement, JudgementWriter
from experiments.labelling.labellers import Exact
from experiments.labelling.sources import Labelled, OpenSession, Sampled, as_labelled
from experiments.labelling.writer import Cost, LabelWriter, read_labels
from experiments.running.run import versions
from orchestrator.cluster import connected
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig, VerifierConfig, most_replicas
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Comparison, Problem, Trajectory
from orchestrator.core.protocols import Answers, Sampling
from orchestrator.policy.resolve import refuse_chat_api, resolve_policy
from orchestrator.pools.open import open_pools
from orchestrator.pools.record import ray_of
from orchestrator.results.shards import ShardWriter
from orchestrator.search import SearchRuntime, for_each_problem
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.open import open_verifier
from orchestrator.verifier.resolve import ResolvedVerifier, resolve
from strategies.aggregation import Aggregation
from verifiers.training.labelled import LabelledSolution

SOLUTIONS = "solutions"
W = TypeVar("W", bound=ShardWriter)


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
    problem_timeout_s: float = 3600.0  # of all solutions of a problem
    results_dir: str = "results"
    ray: RayConfig = field(default_factory=RayConfig)
    pool: str | None = None  # a named pool (`headrace up`) whose policy is used; None: one is started for this

    def __post_init__(self) -> None:
        for name in (self.name, *self.verifiers):
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"name: wanted a plain file name, got {name!r}")
        for name in ("n", "problems_in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        if self.problem_timeout_s <= 0:
            raise ValueError(f"problem_timeout_s: must be > 0, got {self.problem_timeout_s}")
        if SOLUTIONS in self.verifiers:
            raise ValueError(f"verifiers: {SOLUTIONS} is the folder of the solutions, wanted another name")
        if not self.verifiers:
            raise ValueError("verifiers: wanted at least one, got none")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePlan:
    """What has passed every check that needs no model."""

    config: JudgeConfig
    policy: PolicyConfig
    verifiers: dict[str, ResolvedVerifier]
    dataset: Dataset
    resolved_yaml: str

    @property
    def folder(self) -> Path:
        return Path(self.config.results_dir) / self.config.name


def plan_judging(config_path: Path, overrides: Sequence[str]) -> JudgePlan:
    """Reads and checks the configuration, the data and the checkpoints' outsides. Raises UserError."""
    config, resolved_yaml = load_yaml(config_path, JudgeConfig, overrides)
    policy = resolve_policy(config.policy, resolve_path)
    refuse_chat_api(policy, "judge")
    verifiers = {}
    for name, verifier in config.verifiers.items():
        try:
            verifiers[name] = resolve(verifier, resolve_path, answer=config.data.answer_rule)
            check_verifier(verifiers[name])
        except UserError as error:
            raise UserError(f"verifiers.{name}: {error}") from None
    return JudgePlan(
        config=config, policy=policy, verifiers=verifiers, dataset=load_data(config.data), resolved_yaml=resolved_yaml
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Writers:
    """The folders of a comparison, locked."""

    solutions: LabelWriter
    judgements: Mapping[str, JudgementWriter]  # by verifier


@contextmanager
def open_writers(plan: JudgePlan, *, resume: bool, overwrite: bool) -> Iterator[Writers]:
    """A folder for the solutions, and one for each verifier: what its rows depend on is its own configuration and the
    solutions', so that verifiers can be added and changed. Raises UserError."""
    config = OmegaConf.to_container(OmegaConf.create(plan.resolved_yaml))
    assert isinstance(config, dict)
    sampled = {key: config[key] for key in ("data", "policy", "n", "sampling", "steps", "seed")}

    with ExitStack() as stack:

        def opened(kind: type[W], name: str, depends_on: Mapping[str, object]) -> W:
            yaml = OmegaConf.to_yaml(OmegaConf.create(dict(depends_on)))
            writer = kind.open(
                plan.folder / name,
                run_yaml=yaml,
                versions=versions(),
                resume=resume,
                overwrite=overwrite,
                free_keys=FREE_KEYS,
            )
            stack.enter_context(writer)
            return writer

        yield Writers(
            solutions=opened(LabelWriter, SOLUTIONS, sampled),
            judgements={
                name: opened(JudgementWriter, name, {**sampled, "verifier": config["verifiers"][name]})
                for name in plan.verifiers
            },
        )


async def judge(
    plan: JudgePlan,
    writers: Writers,
    *,
    on_stage: Callable[[str, int], None],
    on_problem: Callable[[str | None], None],
    on_answer: OnAnswer,
) -> dict[str, str]:
    """Samples what is not sampled yet and judges what is not judged. The errors of the problems that failed, by their
    ids. `on_stage` is told what comes next and of how many problems, `on_problem` of each that ends, with its error or
    None, `on_answer` of what was sampled. Leaves nothing running, also when cancelled."""
    failed: dict[str, str] = {}
    everything = {example.problem.id for example in plan.dataset.examples}
    done = [writers.solutions.done(), *(writer.done() for writer in writers.judgements.values())]
    if all(problems == everything for problems in done):
        return failed
    actors = [verifier.num_actors(plan.policy.model) for verifier in plan.verifiers.values()]
    with connected(ray_of(plan.config.pool, plan.config.ray), most_replicas(plan.policy) + max(actors)):
        async with AsyncExitStack() as stack:
            on_stage("starting the policy", 0)
            answers = await stack.enter_async_context(answers_of(plan.config.data))
            policy, _ = await open_pools(
                stack, policy=plan.policy, steps=plan.config.steps, verifier=None, pool=plan.config.pool
            )
            runtime = SearchRuntime(policy=policy, verifier=None, sampling=plan.config.sampling, answers=answers)

            async def work(stage: str, done: Set[str], each: Callable[[Problem], Awaitable[None]]) -> None:
                problems = [example.problem for example in plan.dataset.examples]
                left = [problem for problem in problems if problem.id not in done and problem.id not in failed]
                if left:
                    on_stage(stage, len(left))
                failed.update(
                    await for_each_problem(
                        left,
                        each,
                        in_flight=plan.config.problems_in_flight,
                        timeout_s=plan.config.problem_timeout_s,
                        on_problem=on_problem,
                    )
                )

            await work("sampling", writers.solutions.done(), _sampler(plan, runtime, writers.solutions))
            writers.solutions.flush()
            problems = await _problems(plan, answers, on_answer)
            for name, resolved in plan.verifiers.items():
                writer = writers.judgements[name]
                if writer.done() >= problems.keys():
                    continue
                on_stage(f"starting {name}", 0)
                async with AsyncExitStack() as verifier_stack:
                    verifier = await open_verifier(verifier_stack, resolved, policy=policy)
                    judging = replace(runtime, verifier=verifier)
                    each = _judger(partial(judging.session, plan.config.seed), problems, writer)
                    await work(f"judging with {name}", writer.done(), each)
                writer.flush()
    return failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """A problem's solutions, with their labels, which of their answers are equal, and which are right."""

    solutions: Sequence[Trajectory]
    labels: Sequence[Sequence[float | None]]
    groups: Sequence[int | None]
    grades: Sequence[Comparison]


def _sampler(plan: JudgePlan, runtime: SearchRuntime, solutions: LabelWriter) -> Callable[[Problem], Awaitable[None]]:
    """Samples a problem, with exact labels where the data has them."""
    config = plan.config
    source = Sampled(open_session=partial(runtime.session, config.seed), n=config.n)
    step_labels = config.data.step_labels()
    labeller = None if step_labels is None else Exact(step_labels=step_labels)

    async def sample(problem: Problem) -> None:
        sampled, ledger = await source.solutions(problem)
        if labeller is not None:
            labels, _ = await labeller.label(problem, sampled)
        else:
            labels = [(None,) * len(solution.steps) for solution in sampled]
        rows = [
            as_labelled(solution, its_labels, "none" if labeller is None else "exact", config.steps.delimiters)
            for solution, its_labels in zip(sampled, labels, strict=True)
        ]
        solutions.add(rows, Cost(solutions=len(rows), sampled_tokens=ledger.generated_tokens))

    return sample


async def _problems(plan: JudgePlan, answers: Answers, on_answer: OnAnswer) -> dict[str, _Problem]:
    """What was sampled, as trajectories, graded; by the problems' ids. `on_answer` is told of each."""
    labelled: dict[str, list[LabelledSolution]] = {}
    for solution in read_labels(plan.folder / SOLUTIONS):
        labelled.setdefault(solution.problem_id, []).append(solution)
    source = Labelled(solutions_of=labelled, delimiter=next(iter(plan.config.steps.delimiters), ""), answers=answers)
    grader = grader_of(plan.dataset, answers)
    problems = {}
    for problem in (example.problem for example in plan.dataset.examples if example.problem.id in labelled):
        solutions, _ = await source.solutions(problem)
        found = [solution.answer for solution in solutions]
        grades = await grader.grade(problem, found)
        for sample, grade in zip(solutions, grades, strict=True):
            on_answer(answer=sample.answer, status=sample.status, undecided=grade.reason, text=sample.reply)
        problems[problem.id] = _Problem(
            solutions=solutions,
            labels=[solution.labels for solution in labelled[problem.id]],
            groups=await answers.group(found),
            grades=grades,
        )
    return problems


def _judger(
    open_session: OpenSession, problems: Mapping[str, _Problem], writer: JudgementWriter
) -> Callable[[Problem], Awaitable[None]]:
    """Writes what the verifier says of a problem's solutions."""

    async def judge_one(problem: Problem) -> None:
        writer.add(*await _judge(open_session, problems[problem.id]))

    return judge_one


async def _judge(open_session: OpenSession, problem: _Problem) -> tuple[list[Judgement], Ledger]:
    """What the verifier says of a problem's solutions, and what that cost."""
    async with open_session() as session:
        judged = await session.score(problem.solutions)
    judgements = [
        Judgement(
            problem_id=solution.problem.id,
            answer=solution.answer,
            answer_group=group,
            correct=grade.equal,
            labels=labels,
            scores=[step.score.mean if step.score else None for step in solution.steps]
            if solution.unjudged is None
            else None,
            unjudged=solution.unjudged,
        )
        for solution, labels, group, grade in zip(judged, problem.labels, problem.groups, problem.grades, strict=True)
    ]
    return judgements, session.ledger
