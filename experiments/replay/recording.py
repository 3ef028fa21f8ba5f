"""Independent samples of a finished run, read from its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import pandas as pd
from omegaconf import OmegaConf

from experiments.analysis.largest import SAMPLED_STRATEGIES, largest_sample
from experiments.data.datasets import DataConfig
from experiments.data.sets import DATASETS, data_config, settings_of
from orchestrator.core.confidence import StepConfidence
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Problem, Score
from orchestrator.core.protocols import Sampling
from orchestrator.results import read_results


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
    thinking_tokens: int | None = None  # None: it was not counted
    logprobs: tuple[float | None, ...] | None = None  # of each step; None: the run asked for none
    confidences: tuple[StepConfidence | None, ...] | None = None  # likewise


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

    @cached_property
    def thinks(self) -> bool:
        """Whether some sample holds thinking."""
        return any(sample.thinking_tokens for recorded in self.problems for sample in recorded.samples)

    @cached_property
    def thinking_tokens(self) -> dict[tuple[str, tuple[int, ...]], int | None]:
        """Of each sample, by its problem's id and its tokens."""
        return {
            (recorded.problem.id, sample.token_ids): sample.thinking_tokens
            for recorded in self.problems
            for sample in recorded.samples
        }

    @property
    def has_logprobs(self) -> bool:
        return all(sample.logprobs is not None for recorded in self.problems for sample in recorded.samples)

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


def read_recording(folder: Path) -> Recording:
    """The independent samples of a results folder: those of the strategy that drew most. Raises UserError."""
    return recording_of(folder, *read_results(folder))


def recording_of(folder: Path, problems: pd.DataFrame, candidates: pd.DataFrame) -> Recording:
    """As `read_recording`, of some rows of the folder: of one strategy and seed, say. Raises UserError."""
    largest = largest_sample(problems)
    if largest is None:
        raise UserError(
            f"replay: {folder} holds no independent samples; wanted rows of {' or '.join(SAMPLED_STRATEGIES)}"
        )
    strategy, params = largest
    problems = problems[(problems["status"] == "ok") & (problems["num_candidates"] > 0)]
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
        sampling=_recorded_sampling(folder),
        data=_recorded_data(folder),
        policy_model=rows["policy_model"].iloc[0],
        verifier_model=None if pd.isna(verifier_model) else verifier_model,
        policy_flops=rows["policy_flops"].sum() / max(1, computed_tokens),
        verifier_flops=rows["verifier_flops"].sum() / max(1, rows["verifier_tokens"].sum()),
    )


def _recorded_sampling(folder: Path) -> Sampling:
    recorded = OmegaConf.select(OmegaConf.load(folder / "run.yaml"), "sampling", default={})
    return cast(Sampling, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Sampling), recorded)))


def _recorded_data(folder: Path) -> DataConfig:
    """Without the settings that runs of earlier versions name and their data set does not have."""
    config = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(folder / "run.yaml")))
    recorded = config.get("data", {})
    known = settings_of(recorded["name"]) if recorded.get("name") in DATASETS else ()
    return data_config({name: value for name, value in recorded.items() if name in known or name == "name"})


def _step_confidences(sample: Any) -> tuple[StepConfidence | None, ...] | None:
    """Of each step of a row; None where the run asked for none."""
    if _absent(sample.token_confidences):
        return None
    left, found = [_number(token) for token in sample.token_confidences], []
    columns = (sample.step_token_counts, sample.step_entropies, sample.step_self_certainties)
    for count, entropy, self_certainty in zip(*columns, strict=True):
        own, left = left[: int(count)], left[int(count) :]
        tokens = tuple(token for token in own if token is not None)
        found.append(StepConfidence(tokens, float(entropy), float(self_certainty)) if tokens else None)
    return tuple(found)


def _absent(values: Any) -> bool:
    """Whether a list's column holds null."""
    return values is None or isinstance(values, float)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


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
                thinking_tokens=None if pd.isna(sample.thinking_tokens) else int(sample.thinking_tokens),
                logprobs=None if _absent(sample.step_logprobs) else tuple(map(_number, sample.step_logprobs)),
                confidences=_step_confidences(sample),
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
