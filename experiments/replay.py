"""Runs strategies over the recorded samples of a finished run, without an engine.

A recording is a policy that was asked in advance: each rollout of a prompt draws the next of the problem's recorded
samples, without replacement, in an order that depends on the seed and the problem alone; so all strategies of a seed
see the same samples, as they would in a run. What was not recorded is an error and is never made up: a continuation of
anything but the beginning of a drawn sample, another temperature, an injected text.
"""

import asyncio
import importlib.metadata
import json
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd
from omegaconf import OmegaConf

from experiments.config import NamedStrategy, SearchesConfig, load_yaml, make_strategies
from experiments.datasets import DataConfig
from experiments.graders import answers_of
from experiments.report import SAMPLED_STRATEGIES
from orchestrator.core.errors import UserError
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Carry, Comparison, Problem, Score
from orchestrator.core.protocols import Answers, Finish, Generation, Reading, Sampling, Segment, Strategy, Verdict
from orchestrator.core.seeds import derive_seed
from orchestrator.results import CandidateRow, ProblemRow, RowKey, read_results
from orchestrator.runner import Job, OnRow, Results, RunInfo, check_distinct, run_jobs
from orchestrator.search import SearchRuntime
from orchestrator.session import SearchSession

C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One recorded completion. `ends` are its token counts after each step."""

    token_ids: tuple[int, ...]
    ends: tuple[int, ...]
    text: str
    answer: str | None
    correct: bool | None  # None: undecided
    undecided: str | None  # why
    aggregate_score: float | None
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class RecordedProblem:
    """A problem with its samples. The prompt's tokens were not recorded: as many tokens stand in for them."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    samples: tuple[Sample, ...]
    scores: Mapping[tuple[int, ...], Score]  # of each beginning of a completion that ends with a step
    unjudged: Mapping[tuple[int, ...], str] = field(default_factory=dict)  # of those that could not be judged, why


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Independent samples of every problem of a run, from all its seeds."""

    problems: tuple[RecordedProblem, ...]
    sampling: Sampling
    data: DataConfig  # of the run: it says which answers are equal
    policy_model: str
    verifier_model: str | None
    policy_flops: float  # per token that the policy computed, the run's mean
    verifier_flops: float  # per token that the verifier read, the run's mean

    @property
    def num_samples(self) -> int:
        """The fewest that a problem has."""
        return min(len(recorded.samples) for recorded in self.problems)

    def __getitem__(self, token_ids: tuple[int, ...]) -> RecordedProblem:
        """The problem whose prompt the tokens begin with."""
        return self.problems[-1 - token_ids[0]]

    @cached_property
    def prompts(self) -> dict[str, tuple[int, ...]]:
        return {recorded.problem.id: recorded.prompt_ids for recorded in self.problems}

    @cached_property
    def answers(self) -> dict[str, str | None]:
        """By text: what extraction found when the samples were recorded."""
        found: dict[str, str | None] = {}
        for recorded in self.problems:
            for sample in recorded.samples:
                if found.setdefault(sample.text, sample.answer) != sample.answer:
                    raise UserError(
                        f"replay: one text has two answers, {found[sample.text]!r} and {sample.answer!r}: "
                        f"{sample.text[:80]!r}"
                    )
        return found

    def session(self, seed: int, answers: Answers) -> SearchSession:
        """The session of one search."""
        runtime = SearchRuntime(
            policy=RecordedPolicy(self, seed),
            verifier=RecordedVerifier(self),
            sampling=self.sampling,
            answers=RecordedAnswers(self, answers),
        )
        return runtime.session(seed)


class RecordedPolicy:
    """Implements `Policy` for one search. Owner of what the search has drawn."""

    def __init__(self, recording: Recording, seed: int) -> None:
        self.shape = ModelShape(
            weights_per_token=round(recording.policy_flops / 2), head_weights=0, num_layers=0, attention_width=0
        )
        longest = max(len(recorded.prompt_ids) for recorded in recording.problems)
        self.context_length = longest + recording.sampling.max_tokens
        self._recording = recording
        self._seed = seed
        self._left: list[Sample] | None = None  # the last is the next to draw; None: nothing is drawn yet
        self._drawn: list[Sample] = []
        self._continued: Counter[tuple[int, ...]] = Counter()  # how often each prefix was

    async def encode(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        return [self._recording.prompts[problem.id] for problem in problems]

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        raise UserError(f"replay: only samples from the prompt were recorded, got text to inject: {texts[0]!r}")

    def generate(self, requests: Sequence[Generation]) -> "RecordedWriting":
        """A sample's text comes with its last segment: the texts of single steps were not recorded."""
        return RecordedWriting([self._segments(request) for request in requests])

    def _segments(self, request: Generation) -> list[Segment]:
        recorded = self._recording[request.prefix_ids]
        sampling = self._recording.sampling
        if (request.temperature, request.top_p) != (sampling.temperature, sampling.top_p):
            raise UserError(
                f"replay: recorded were samples of temperature {sampling.temperature:g} and top_p {sampling.top_p:g}, "
                f"got a request for {request.temperature:g} and {request.top_p:g}"
            )
        prefix = request.prefix_ids[len(recorded.prompt_ids) :]
        sample = self._continue(prefix, recorded) if prefix else self._draw(recorded)
        if request.stop or request.max_tokens < len(sample.token_ids) - len(prefix):
            raise UserError("replay: only whole samples were recorded, got a request with stop strings or a lower cap")
        # a sample that another cap cut shorter than max_tokens ended there for good, too
        full = sample.truncated and len(sample.token_ids) >= sampling.max_tokens
        segments, start = [], len(prefix)
        for end in sample.ends:
            if end <= len(prefix):
                continue
            last = end == sample.ends[-1]
            finish = (
                (Finish.LENGTH if full else Finish.EOS) if last else Finish.BOUNDARY if request.until_step else None
            )
            text = sample.text if last else ""
            segments.append(Segment(token_ids=sample.token_ids[start:end], text=text, finish=finish))
            if finish is not None:
                break
            start = end
        return segments

    def _draw(self, recorded: RecordedProblem) -> Sample:
        if self._left is None:
            self._left = list(recorded.samples)
            random.Random(derive_seed(self._seed, recorded.problem.id, ())).shuffle(self._left)
        if not self._left:
            raise UserError(
                f"replay: {recorded.problem.id} has {len(recorded.samples)} recorded samples, "
                "got a strategy that draws more"
            )
        self._drawn.append(self._left.pop())
        return self._drawn[-1]

    def _continue(self, prefix: tuple[int, ...], recorded: RecordedProblem) -> Sample:
        """Which of several drawn samples with that beginning is continued does not matter: they are exchangeable."""
        begun = [s for s in self._drawn if len(prefix) in s.ends[:-1] and s.token_ids[: len(prefix)] == prefix]
        turn = self._continued[prefix]
        if turn >= len(begun):
            raise UserError(
                f"replay: only samples from the prompt were recorded; {recorded.problem.id}: got a prefix to continue "
                f"{turn + 1} times that {len(begun)} drawn samples begin with"
            )
        self._continued[prefix] += 1
        return begun[turn]


class RecordedWriting:
    """Implements `Writing`. A turn of the event loop stands for one token of each sequence, as in an engine's batch:
    what is written at the same time ends in the order of its length."""

    def __init__(self, plans: Sequence[Sequence[Segment]]) -> None:
        self._due = deque(_in_time(plans))
        self._now = 0

    def __aiter__(self) -> "RecordedWriting":
        return self

    async def __anext__(self) -> tuple[int, Segment]:
        while self._due and self._now < self._due[0][0]:
            self._now += 1
            await asyncio.sleep(0)
        if not self._due:
            raise StopAsyncIteration
        _, index, segment = self._due.popleft()
        return index, segment

    def abort(self, indices: Sequence[int]) -> None:
        aborted = {index for _, index, _ in self._due if index in indices}
        ends = [(self._now, index, Segment(token_ids=(), text="", finish=Finish.ABORTED)) for index in sorted(aborted)]
        self._due = deque([*ends, *(due for due in self._due if due[1] not in aborted)])

    async def aclose(self) -> None:
        self._due.clear()


def _in_time(plans: Sequence[Sequence[Segment]]) -> list[tuple[int, int, Segment]]:
    """(when, index of the request, segment) in order; equal times in the order of the requests."""

    def timed() -> Iterator[tuple[int, int, Segment]]:
        for index, segments in enumerate(plans):
            ends = accumulate(len(segment.token_ids) for segment in segments)
            yield from ((end, index, segment) for end, segment in zip(ends, segments, strict=True))

    return sorted(timed(), key=lambda due: due[:2])


class RecordedVerifier:
    """Implements `Verifier`. Its states are empty: a carry only says how many tokens need not be read again."""

    state_bytes = 0
    scores_steps, reads_text, reads_tokens = True, False, True

    def __init__(self, recording: Recording) -> None:
        self.flops_per_token = recording.verifier_flops
        self._recording = recording

    async def score(self, readings: Sequence[Reading]) -> list[Verdict]:
        return [self._verdict(reading) for reading in readings]

    def _verdict(self, reading: Reading) -> Verdict:
        recorded = self._recording[reading.token_ids]
        prompt, size = len(recorded.prompt_ids), len(reading.token_ids)
        new_tokens = size - (reading.carry.num_tokens if reading.carry is not None else 0)
        flops = self._recording.verifier_flops * new_tokens
        scores = []
        for end in reading.boundaries:
            score = recorded.scores.get(reading.token_ids[prompt:end])
            if score is None and (reason := recorded.unjudged.get(reading.token_ids[prompt:end])) is not None:
                return Verdict(scores=(), carry=None, verifier_tokens=new_tokens, flops=flops, unjudged=reason)
            if score is None:
                raise UserError(
                    f"replay: {recorded.problem.id}: the step that ends after {end - prompt} tokens was not scored"
                )
            scores.append(score)
        return Verdict(
            scores=tuple(scores),
            carry=Carry(replica=0, epoch=0, key=f"{size}-{hash(reading.token_ids)}", num_tokens=size),
            verifier_tokens=new_tokens,
            flops=flops,
        )

    def release(self, carries: Sequence[Carry]) -> None:
        pass


class RecordedAnswers:
    """Implements `Answers`: found when the samples were recorded, compared with each other as the recorded run did."""

    def __init__(self, recording: Recording, answers: Answers) -> None:
        self.extract = recording.answers.__getitem__
        self.group, self.compare = answers.group, answers.compare


class RecordedGrader:
    """Ground truth as it was recorded."""

    def __init__(self, recording: Recording) -> None:
        self._grades = {
            (recorded.problem.id, sample.answer): Comparison(equal=sample.correct, reason=sample.undecided)
            for recorded in recording.problems
            for sample in recorded.samples
        }

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[Comparison]:
        return [self._grades[problem.id, answer] for answer in answers]


def read_recording(folder: Path) -> Recording:
    """The independent samples of a results folder: those of the strategy that drew most. Raises UserError."""
    problems, candidates = read_results(folder)
    problems = problems[(problems["status"] == "ok") & problems["strategy"].isin(SAMPLED_STRATEGIES)]
    problems = problems[problems["num_candidates"] > 0]
    if problems.empty:
        raise UserError(
            f"replay: {folder} holds no independent samples; wanted rows of {' or '.join(SAMPLED_STRATEGIES)}"
        )
    sizes = problems.groupby(["strategy", "params"]).agg(n=("num_candidates", "max"), judged=("verifier_tokens", "sum"))
    strategy, params = sizes.sort_values(["n", "judged"], ascending=False, kind="stable").index[0]
    rows = problems[(problems["strategy"] == strategy) & (problems["params"] == params)]
    samples = candidates[(candidates["strategy"] == strategy) & (candidates["params"] == params)]
    by_problem = dict(iter(samples.sort_values(["problem_id", "seed", "candidate"]).groupby("problem_id")))
    first = rows.drop_duplicates("problem_id").sort_values("problem_id")
    computed_tokens = (rows["prompt_tokens"] - rows["cached_tokens"] + rows["generated_tokens"]).sum()
    verifier_model = rows["verifier_model"].iloc[0]
    return Recording(
        problems=tuple(
            _recorded(index, row, by_problem[row["problem_id"]]) for index, row in enumerate(first.to_dict("records"))
        ),
        sampling=_recorded_config(folder, "sampling", Sampling),
        data=_recorded_config(folder, "data", DataConfig),
        policy_model=rows["policy_model"].iloc[0],
        verifier_model=None if pd.isna(verifier_model) else verifier_model,
        policy_flops=rows["policy_flops"].sum() / max(1, computed_tokens),
        verifier_flops=rows["verifier_flops"].sum() / max(1, rows["verifier_tokens"].sum()),
    )


def _recorded_config(folder: Path, key: str, schema: type[C]) -> C:
    config = OmegaConf.load(folder / "run.yaml")
    recorded = OmegaConf.select(config, key, default={})
    return cast(C, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), recorded)))


def _recorded(index: int, row: Mapping[str, Any], samples: pd.DataFrame) -> RecordedProblem:
    made, scores, unjudged = [], {}, {}
    for sample in samples.itertuples():
        token_ids, ends = tuple(map(int, sample.token_ids)), tuple(accumulate(map(int, sample.step_token_counts)))
        made.append(
            Sample(
                token_ids=token_ids,
                ends=ends,
                text=sample.text,
                answer=None if pd.isna(sample.answer) else sample.answer,
                correct=None if pd.isna(sample.correct) else bool(sample.correct),
                undecided=None if pd.isna(sample.undecided) else str(sample.undecided),
                aggregate_score=None if pd.isna(sample.aggregate_score) else float(sample.aggregate_score),
                truncated=sample.status == "truncated",
            )
        )
        for end, mean, std in zip(ends, sample.step_scores, sample.step_uncertainties, strict=True):
            if mean is not None and not pd.isna(mean):
                scores[token_ids[:end]] = Score(mean=float(mean), std=float(std))
            elif not pd.isna(sample.unjudged):
                unjudged[token_ids[:end]] = str(sample.unjudged)
    difficulty = row["difficulty"]
    prompt_tokens = int(row["prompt_tokens"]) // int(row["num_candidates"])
    return RecordedProblem(
        problem=Problem(
            id=str(row["problem_id"]),
            messages=(),
            difficulty=None if pd.isna(difficulty) else float(difficulty),
        ),
        prompt_ids=(-1 - index,) * max(1, prompt_tokens),
        samples=tuple(made),
        scores=scores,
        unjudged=unjudged,
    )


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(SearchesConfig):
    """Which strategies to run over a recording."""

    name: str | None = None  # of the results folder; None: the recorded run's, and `-replay`


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """A replay that has passed every check."""

    config: ReplayConfig
    folder: Path
    resolved_yaml: str
    recording: Recording
    strategies: tuple[NamedStrategy, ...]

    @property
    def jobs(self) -> list[Job]:
        return [job for named in self.strategies for job in jobs_of(self.recording, named, self.config.seeds)]


def plan_replay(recorded: Path, config_path: Path, overrides: Sequence[str]) -> ReplayPlan:
    """Reads and checks the configuration and the recording. Raises UserError."""
    config, resolved_yaml = load_yaml(config_path, ReplayConfig, overrides)
    recording = read_recording(recorded)
    name = config.name or f"{recorded.resolve().name}-replay"
    plan = ReplayPlan(
        config=config,
        folder=Path(config.results_dir) / name,
        resolved_yaml=f"{resolved_yaml}recorded: {json.dumps(str(recorded))}\n",
        recording=recording,
        strategies=tuple(make_strategies(config.strategies)),
    )
    if plan.folder.resolve() == recorded.resolve():
        raise UserError(f"name: got {name}, the recorded run itself; wanted another folder for its replay")
    check_distinct(plan.jobs)
    return plan


def jobs_of(recording: Recording, named: NamedStrategy, seeds: Sequence[int]) -> list[Job]:
    return [
        Job(problem=recorded.problem, strategy_name=named.name, strategy=named.strategy, seed=seed)
        for seed in seeds
        for recorded in recording.problems
    ]


async def replay(
    recording: Recording,
    jobs: Sequence[Job],
    *,
    results: Results,
    run_id: str,
    in_flight: int = 32,
    timeout_s: float = 600.0,
    on_row: OnRow = lambda row, candidates: None,
) -> None:
    """Runs the jobs that have no row yet. Raises UserError where a strategy wants what was not recorded."""
    async with answers_of(recording.data) as answers:
        await run_jobs(
            jobs,
            session_of=partial(recording.session, answers=answers),
            grader=RecordedGrader(recording),
            results=results,
            info=RunInfo(
                run_id=run_id,
                policy_model=recording.policy_model,
                verifier_model=recording.verifier_model,
                version=importlib.metadata.version("headrace"),
            ),
            in_flight=in_flight,
            timeout_s=timeout_s,
            on_row=on_row,
        )


class RowList:
    """Implements `Results` in memory, for benchmarks. Candidates are not kept."""

    def __init__(self) -> None:
        self.rows: list[ProblemRow] = []

    def done_keys(self) -> set[RowKey]:
        return {row.key for row in self.rows}

    def num_candidates(self, key: RowKey) -> int:
        return next(row.num_candidates for row in self.rows if row.key == key)

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow]) -> None:
        self.rows.append(problem)


def replay_rows(recording: Recording, name: str, strategy: Strategy, seeds: Sequence[int]) -> list[ProblemRow]:
    """The rows of one strategy, in memory. Raises UserError also where a single problem failed."""
    results = RowList()
    jobs = jobs_of(recording, NamedStrategy(name=name, strategy=strategy), seeds)
    asyncio.run(replay(recording, jobs, results=results, run_id="replay"))
    for row in results.rows:
        if row.error is not None:
            raise UserError(f"replay: {name}: {row.problem_id}: {row.error}")
    return results.rows
