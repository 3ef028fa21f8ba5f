"""One YAML file to a folder of labelled solutions: checks everything cheap first, then samples, rolls out and labels.

A problem that fails is reported and tried again on resume; the others go on. What concerns every problem ends the run;
what was labelled by then is saved.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.analysis.answer_shares import OnAnswer
from experiments.config import FREE_KEYS, load_data, load_yaml, resolve_path
from experiments.data.datasets import Dataset
from experiments.data.graders import answers_of, grader_of
from experiments.labelling.agreement import agreement
from experiments.labelling.config import LabelConfig, Method, SourceConfig
from experiments.labelling.imports import Imported, ImportRules, read_solutions
from experiments.labelling.labellers import BinarySearch, Exact, Judged, Labeller, MonteCarlo
from experiments.labelling.sources import Labelled, OpenSession, Recorded, Sampled, Source, as_labelled
from experiments.labelling.writer import Cost, LabelWriter, read_labels
from experiments.replay.recording import RecordedProblem, read_recording
from experiments.running.run import versions
from orchestrator.answers import open_answers
from orchestrator.cluster import connected
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import PolicyConfig, most_replicas
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Answers
from orchestrator.policy.resolve import refuse_chat_api, resolve_policy
from orchestrator.pools.open import open_pools
from orchestrator.pools.record import ray_of
from orchestrator.search import SearchRuntime, for_each_problem
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.resolve import ResolvedVerifier, resolve
from verifiers.training.labelled import LabelledSolution

_SAMPLES = 4  # of each problem, unless the configuration says how many
_SCORE_THRESHOLD = 0.5
_FREE = Ledger()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPlan:
    """A labelling that has passed every check that needs no model."""

    config: LabelConfig
    policy: PolicyConfig | None  # the configuration's, its model's path made absolute; None when none is needed
    verifier: ResolvedVerifier | None  # None when the method asks none
    resolved_yaml: str
    dataset: Dataset | None
    problems: tuple[Problem, ...]  # that have solutions to label
    labelled: Mapping[str, Sequence[LabelledSolution]]  # by problem, of a source that has labels already
    skipped: tuple[str, ...]  # of the source's records that were left out: why
    recorded: Mapping[str, RecordedProblem]  # by problem, of a run

    @property
    def folder(self) -> Path:
        return Path(self.config.results_dir) / self.config.name


def plan_label(config_path: Path, overrides: Sequence[str]) -> LabelPlan:
    """Reads and checks the configuration, the data, the solutions and the checkpoints' outsides. Raises UserError."""
    config, resolved_yaml = load_yaml(config_path, LabelConfig, overrides)
    policy = config.policy if config.wants_policy else None
    if policy is not None:
        policy = resolve_policy(policy, resolve_path)
        refuse_chat_api(policy, "label")
    verifier = None
    if config.method is Method.verifier and config.verifier is not None:
        verifier = resolve(config.verifier, resolve_path)
        check_verifier(verifier)
        if not verifier.scores_steps:
            raise UserError(f"verifier: wanted one that judges steps, got {verifier.name}, which judges solutions only")
    dataset = load_data(config.data) if config.data is not None and config.method is not Method.imported else None
    if config.compare is not None:
        read_labels(Path(resolve_path(config.compare)))  # a mistake shows now, and not when all is labelled
    labelled, skipped = _labelled(config.source)
    recorded = _recorded(config.source)
    return LabelPlan(
        config=config,
        policy=policy,
        verifier=verifier,
        resolved_yaml=resolved_yaml,
        dataset=dataset,
        problems=_problems(dataset, labelled, recorded),
        labelled=labelled,
        skipped=skipped,
        recorded=recorded,
    )


def _labelled(source: SourceConfig) -> tuple[dict[str, list[LabelledSolution]], tuple[str, ...]]:
    """By problem; and what was left out of a published file, and why."""
    imported = Imported(solutions=())
    if source.labelled is not None:
        imported = Imported(solutions=tuple(read_labels(Path(resolve_path(source.labelled)))))
    elif source.path is not None and source.format is not None:
        reading = ImportRules(neutral=source.neutral, alternatives=source.alternatives)
        path = Path(resolve_path(source.path))
        imported = read_solutions(source.format, path, reading, max_skipped=source.max_skipped)
    found: defaultdict[str, list[LabelledSolution]] = defaultdict(list)
    for solution in imported.solutions:
        found[solution.problem_id].append(solution)
    return dict(found), imported.skipped


def _recorded(source: SourceConfig) -> dict[str, RecordedProblem]:
    if source.run is None:
        return {}
    return {recorded.problem.id: recorded for recorded in read_recording(Path(resolve_path(source.run))).problems}


def _problems(
    dataset: Dataset | None,
    labelled: Mapping[str, Sequence[LabelledSolution]],
    recorded: Mapping[str, RecordedProblem],
) -> tuple[Problem, ...]:
    """Those of the data that have solutions. Raises UserError where solutions have no problem in the data."""
    if dataset is None:
        return tuple(Problem.from_prompt(id, solutions[0].prompt) for id, solutions in labelled.items())
    known = {example.problem.id: example.problem for example in dataset.examples}
    given = labelled or recorded
    if unknown := [id for id in given if id not in known]:
        raise UserError(f"data: holds no problem {unknown[0]!r}, of which source has solutions ({len(unknown)} such)")
    return tuple(known[id] for id in given) if given else tuple(known.values())


def open_labels(plan: LabelPlan, *, resume: bool, overwrite: bool) -> LabelWriter:
    """The plan's folder, locked. Raises UserError."""
    return LabelWriter.open(
        plan.folder,
        run_yaml=plan.resolved_yaml,
        versions=versions(),
        resume=resume,
        overwrite=overwrite,
        free_keys=(*FREE_KEYS, "compare"),
    )


async def execute(
    plan: LabelPlan,
    labels: LabelWriter,
    *,
    on_stage: Callable[[str], None],
    on_problem: Callable[[str | None], None],
    on_answer: OnAnswer,
) -> dict[str, str]:
    """Labels what is not labelled yet. Returns the errors of the problems that failed, by their ids; `on_problem` is
    called at the end of each problem with its error or None, `on_answer` for each answer that is graded. Leaves nothing
    running, also when cancelled."""
    left = [problem for problem in plan.problems if problem.id not in labels.done()]
    if not left:
        return {}
    if plan.config.method is Method.imported:
        on_stage("importing")
        for problem in left:
            labels.add(plan.labelled[problem.id], _cost(plan.labelled[problem.id]))
            on_problem(None)
        return {}
    async with AsyncExitStack() as stack:
        answers = await stack.enter_async_context(_answers(plan))
        open_session = await _open_engines(plan, answers, stack, on_stage)
        source = _source(plan, answers, open_session)
        labeller = _labeller(plan, answers, open_session, on_answer)

        async def label(problem: Problem) -> None:
            began = time.monotonic()
            solutions, writing = await source.solutions(problem)
            found, judging = await labeller.label(problem, solutions)
            rows = [
                as_labelled(solution, its_labels, plan.config.method.value, plan.config.steps.delimiters)
                for solution, its_labels in zip(solutions, found, strict=True)
            ]
            labels.add(rows, _cost(rows, writing, judging, wall_s=time.monotonic() - began))

        on_stage("labelling")
        return await for_each_problem(
            left,
            label,
            in_flight=plan.config.problems_in_flight,
            timeout_s=plan.config.problem_timeout_s,
            on_problem=on_problem,
        )


def _answers(plan: LabelPlan) -> AbstractAsyncContextManager[Answers]:
    data = plan.config.data
    return open_answers("exact", AnswerFormat.parse("auto")) if data is None else answers_of(data)


async def _open_engines(
    plan: LabelPlan, answers: Answers, stack: AsyncExitStack, on_stage: Callable[[str], None]
) -> OpenSession | None:
    """What opens a session over the engines, which the stack closes; None when none is needed."""
    config = plan.config
    if plan.policy is None:
        return None
    on_stage("starting the policy" + (" and the verifier" if plan.verifier else ""))
    judging = plan.verifier.num_actors(plan.policy.model) if plan.verifier else 0
    stack.enter_context(connected(ray_of(config.pool, config.ray), most_replicas(plan.policy) + judging))
    policy, verifier = await open_pools(
        stack, policy=plan.policy, steps=config.steps, verifier=plan.verifier, pool=config.pool
    )
    runtime = SearchRuntime(policy=policy, verifier=verifier, sampling=config.sampling, answers=answers)
    return partial(runtime.session, config.seed)


def _source(plan: LabelPlan, answers: Answers, open_session: OpenSession | None) -> Source:
    config = plan.config
    if config.source.labelled is not None:
        return Labelled(solutions_of=plan.labelled, delimiter=next(iter(config.steps.delimiters), ""), answers=answers)
    assert open_session is not None and plan.policy is not None, "only a labelled source needs no policy"
    if config.source.run is None:
        return Sampled(open_session=open_session, n=config.source.n or _SAMPLES)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plan.policy.model).backend_tokenizer
    return Recorded(open_session=open_session, tokenizer=tokenizer, problems=plan.recorded, n=config.source.n)


def _labeller(plan: LabelPlan, answers: Answers, open_session: OpenSession | None, on_answer: OnAnswer) -> Labeller:
    config = plan.config
    if config.method is Method.exact:
        step_labels = None if config.data is None else config.data.step_labels()
        assert step_labels is not None, "the configuration checks it"
        return Exact(step_labels=step_labels)
    assert open_session is not None, "only exact labels need no policy"
    if config.method is Method.verifier:
        threshold = _SCORE_THRESHOLD if config.threshold is None else config.threshold
        return Judged(open_session=open_session, estimation=config.labels, threshold=threshold)
    assert plan.dataset is not None
    grader = grader_of(plan.dataset, answers)
    if config.method is Method.binary_search:
        return BinarySearch(open_session=open_session, grader=grader, k=config.k, on_answer=on_answer)
    return MonteCarlo(
        open_session=open_session,
        grader=grader,
        k=config.k,
        on_answer=on_answer,
        estimation=config.labels,
        threshold=config.threshold or 0.0,
    )


def _cost(
    rows: Sequence[LabelledSolution], writing: Ledger = _FREE, judging: Ledger = _FREE, wall_s: float = 0.0
) -> Cost:
    total = writing + judging
    return Cost(
        solutions=len(rows),
        steps=sum(len(row.labels) for row in rows),
        sampled_tokens=writing.generated_tokens,
        rollouts=judging.candidates,
        rollout_tokens=judging.generated_tokens,
        verifier_tokens=total.verifier_tokens,
        flops=total.policy_flops + total.verifier_flops,
        wall_s=wall_s,
    )


def summary(plan: LabelPlan, labels: LabelWriter) -> str:
    """What the folder holds and what it took, earlier runs included."""
    cost = labels.cost
    return (
        f"{plan.config.method.value}: {len(labels.done()):,} problems, {cost.solutions:,} solutions, {cost.steps:,} "
        f"steps in {plan.folder}; it took {cost.sampled_tokens:,} tokens of solutions, {cost.rollouts:,} rollouts of "
        f"{cost.rollout_tokens:,} tokens, {cost.verifier_tokens:,} verifier tokens, {cost.flops:.3g} FLOPs"
        + (f"; {len(plan.skipped):,} records were skipped, the first: {plan.skipped[0]}" if plan.skipped else "")
    )


def compared(plan: LabelPlan) -> str:
    """How far these labels agree with those of the folder to compare with. Raises UserError."""
    assert plan.config.compare is not None
    try:
        return str(agreement(read_labels(plan.folder), read_labels(Path(resolve_path(plan.config.compare)))))
    except ValueError as error:
        raise UserError(f"compare: {error}") from None
