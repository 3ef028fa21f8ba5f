"""What a sampled completion earns in reinforcement learning: the verdict of a grader, the score of a verifier, or both.

A completion that can't be judged earns nothing that could be learnt from: its reward is None, and the update leaves it
out. There is no default reward, and a batch in which nothing can be judged is an error.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import PreTrainedTokenizerFast

from experiments.analysis.answer_shares import OnAnswer
from orchestrator.core.config import StepConfig
from orchestrator.core.errors import HeadraceError, UserError
from orchestrator.core.fingerprint import tokenizer_fingerprint
from orchestrator.core.nouns import Problem, Status
from orchestrator.core.protocols import Answers, Solution
from orchestrator.policy.steps import StepSplitter, TextStream
from orchestrator.runner import Grader
from orchestrator.verifier.loading import load_host
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.contract import Missing, Read, Run, VerifierHost


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A sampled answer to a problem."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # the end token included
    text: str  # without special tokens
    ended: bool  # False: the token limit cut it


class Codec:
    """Between the problems of a data set and the policy's tokens."""

    def __init__(
        self, problems: Iterable[Problem], tokenizer: PreTrainedTokenizerFast, end_ids: Collection[int]
    ) -> None:
        self._problems = {problem.id: problem for problem in problems}
        self._tokenizer = tokenizer
        self.end_ids = frozenset(end_ids)
        self.pad_id: int = tokenizer.pad_token_id
        self.prompts = {id: conversation(problem) for id, problem in self._problems.items()}
        self.prompt_ids: dict[str, tuple[int, ...]] = {
            id: tuple(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
            for id, prompt in self.prompts.items()
        }

    def completion(self, problem_id: str, token_ids: Sequence[int]) -> Completion:
        return Completion(
            problem=self._problems[problem_id],
            prompt_ids=self.prompt_ids[problem_id],
            token_ids=tuple(token_ids),
            text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
            ended=bool(token_ids) and token_ids[-1] in self.end_ids,
        )


def conversation(problem: Problem) -> list[dict[str, str]]:
    """The problem as chat templates want it."""
    return [{"role": message.role, "content": message.content} for message in problem.messages]


Judge = Callable[[Sequence[Completion]], list[float | None]]
"""One value per completion, in their order; None for one that can't be judged."""


class GraderJudge:
    """1.0 for a right answer, 0.0 for a wrong one or none, None for one that can't be compared.

    Runs the grader's coroutines on the runner that is given. `on_answer` is told of each completion.
    """

    def __init__(self, grader: Grader, answers: Answers, runner: asyncio.Runner, on_answer: OnAnswer) -> None:
        self._grader = grader
        self._answers = answers
        self._runner = runner
        self._on_answer = on_answer

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        groups: dict[str, list[int]] = {}
        for index, completion in enumerate(completions):
            groups.setdefault(completion.problem.id, []).append(index)
        graded = self._runner.run(self._grade([[completions[i] for i in group] for group in groups.values()]))
        verdicts: list[float | None] = [None] * len(completions)
        for group, values in zip(groups.values(), graded, strict=True):
            for index, value in zip(group, values, strict=True):
                verdicts[index] = value
        return verdicts

    async def _grade(self, groups: Sequence[Sequence[Completion]]) -> list[list[float | None]]:
        return await asyncio.gather(*map(self._grade_group, groups))

    async def _grade_group(self, group: Sequence[Completion]) -> list[float | None]:
        answers = [self._answers.extract(completion.text) for completion in group]
        grades = await self._grader.grade(group[0].problem, answers)
        for completion, answer, grade in zip(group, answers, grades, strict=True):
            status = Status.FINISHED if completion.ended else Status.TRUNCATED
            self._on_answer(answer=answer, status=status, undecided=grade.reason, text=completion.text)
        return [None if grade.equal is None else float(grade.equal) for grade in grades]


class VerifierJudge:
    """The score of the whole solution, read in this process. Owner of the host; it keeps no state between batches."""

    def __init__(self, host: VerifierHost, *, reads_text: bool, steps: StepConfig, tokenizer: Any) -> None:
        self._host = host
        self._reads_text = reads_text
        self._steps = steps
        self._tokenizer = tokenizer  # of the policy, as the `tokenizers` library has it

    @classmethod
    def load(cls, verifier: ResolvedVerifier, steps: StepConfig, tokenizer: PreTrainedTokenizerFast) -> "VerifierJudge":
        """Raises UserError when the model can't be loaded or was trained with other tokens than the policy's."""
        try:
            host = load_host(verifier)
        except ValueError as error:
            raise UserError(f"verifier: {error}") from error
        if host.info.tokenizer_fingerprint not in ("", tokenizer_fingerprint(tokenizer.get_vocab())):
            raise UserError(
                f"verifier.model: {verifier.config.model} was trained with another tokenizer than the policy; "
                "wanted the same vocabulary"
            )
        return cls(host, reads_text=verifier.entry.reads_text, steps=steps, tokenizer=tokenizer.backend_tokenizer)

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        runs = [
            Run(
                key=f"completion-{index}",
                token_ids=(ids := completion.prompt_ids + completion.token_ids),
                boundaries=(len(ids),),
                solution=self._solution(completion) if self._reads_text else None,
            )
            for index, completion in enumerate(completions)
        ]
        answers = self._host.read(runs)
        self._host.release([run.key for run in runs])
        scores: list[float | None] = []
        for answer in answers:
            assert not isinstance(answer, Missing), "a run from the start needs no state"
            scores.append(answer.scores[-1].mean if isinstance(answer, Read) else None)
        return scores

    def _solution(self, completion: Completion) -> Solution:
        splitter = StepSplitter(self._steps, TextStream(self._tokenizer, completion.prompt_ids))
        steps = [piece.text for token_id in completion.token_ids for piece in splitter.push(token_id)]
        if splitter.num_pending or not steps:
            steps.append(splitter.rest().text)
        return Solution(problem=completion.problem, steps=tuple(steps), asked=(len(steps) - 1,), ended=completion.ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A judge, and how much its verdict weighs in the sum."""

    judge: Judge
    weight: float


def weighted_sum(verdicts: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Of one completion, over the sources. None as soon as one has no verdict, which would else pass for a zero."""
    total = 0.0
    for verdict, weight in zip(verdicts, weights, strict=True):
        if verdict is None:
            return None
        total += weight * verdict
    return total


class Rewards:
    """The reward function that TRL calls with what it sampled. Sources are logged one by one, and the masked share."""

    __name__ = "headrace"

    def __init__(self, sources: Mapping[str, Source], codec: Codec) -> None:
        self._sources = sources
        self._codec = codec

    def __call__(
        self,
        *,
        completion_ids: Sequence[Sequence[int]],
        problem_id: Sequence[str],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """One reward per completion. Raises HeadraceError when not one of them can be judged."""
        completions = [self._codec.completion(id, ids) for id, ids in zip(problem_id, completion_ids, strict=True)]
        verdicts = {name: source.judge(completions) for name, source in self._sources.items()}
        weights = [source.weight for source in self._sources.values()]
        rewards = [weighted_sum(row, weights) for row in zip(*verdicts.values(), strict=True)]
        if all(reward is None for reward in rewards):
            raise HeadraceError(f"rewards: {' and '.join(verdicts)} could judge none of {len(rewards)} completions")
        for name, values in verdicts.items():
            log_metric(f"reward_{name}", fmean(value for value in values if value is not None))
        log_metric("masked", fmean(reward is None for reward in rewards))
        return rewards
