"""Where the solutions to label come from. Each source gives a problem's whole solutions, and their cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Protocol

from tokenizers import Tokenizer

from experiments.labelling.estimates import Labels
from experiments.replay.recording import RecordedProblem, Sample
from orchestrator.core.config import StepConfig
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Problem, Status, Step, Trajectory
from orchestrator.core.protocols import Answers
from orchestrator.core.thinking import Phase
from orchestrator.policy.steps import Piece, StepSplitter, TextStream
from orchestrator.policy.thinking import MarkedTokens
from orchestrator.session import SearchSession
from verifiers.training.labelled import LabelledSolution

OpenSession = Callable[[], SearchSession]


class Source(Protocol):
    async def solutions(self, problem: Problem) -> tuple[list[Trajectory], Ledger]: ...


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Fresh samples."""

    open_session: OpenSession
    n: int

    async def solutions(self, problem: Problem) -> tuple[list[Trajectory], Ledger]:
        async with self.open_session() as session:
            samples = await session.rollout([await session.start(problem)], self.n, scored=False)
        return [_without_empty_end(sample) for sample in samples], session.ledger


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Samples of a finished run: the first `n` of each problem, or all there are. Where the policy thinks, the marker
    that ends the thinking ends a step, whether it did in the run or not, and steps up to there are thinking."""

    open_session: OpenSession
    tokenizer: Tokenizer
    problems: Mapping[str, RecordedProblem]
    n: int | None

    async def solutions(self, problem: Problem) -> tuple[list[Trajectory], Ledger]:
        """Raises UserError when the tokens don't read as the text that was recorded."""
        async with self.open_session() as session:
            root = await session.start(problem)
            marked = None if session.thinking is None else MarkedTokens(session.thinking, self.tokenizer)
        samples = self.problems[problem.id].samples[: self.n]
        return [_without_empty_end(self._trajectory(root, sample, marked)) for sample in samples], Ledger()

    def _trajectory(self, root: Trajectory, sample: Sample, marked: MarkedTokens | None) -> Trajectory:
        phase, seen = Phase.ANSWER, ""
        if marked is not None:
            phase, seen = marked.begin(root.prompt_ids, len(root.prompt_ids))
        text, whole = TextStream(self.tokenizer, root.prompt_ids), StepConfig(every_tokens=len(sample.token_ids) + 1)
        splitter = StepSplitter(whole, text, marked=marked, phase=phase, phase_text=seen)
        pieces: list[Piece] = []
        for start, end in zip((0, *sample.ends), sample.ends, strict=False):
            for token_id in sample.token_ids[start:end]:
                pieces += splitter.push(token_id)
            if splitter.num_pending:
                pieces.append(splitter.rest())
        steps = [Step(token_ids=piece.token_ids, text=piece.text, thinking=piece.thinking) for piece in pieces]
        trajectory = replace(
            root,
            steps=tuple(steps),
            status=Status.TRUNCATED if sample.truncated else Status.FINISHED,
            answer=sample.answer,
        )
        if trajectory.text != sample.text:
            raise UserError(
                f"source.run: a sample of {root.problem.id} reads {sample.text[:60]!r}, and by the tokenizer of"
                f" policy.model {trajectory.text[:60]!r}; wanted the policy that wrote the run"
            )
        return trajectory


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Whole solutions that a policy wrote and that have labels already, to be labelled anew."""

    solutions_of: Mapping[str, Sequence[LabelledSolution]]
    delimiter: str  # between the steps of a solution that does not say
    answers: Answers

    async def solutions(self, problem: Problem) -> tuple[list[Trajectory], Ledger]:
        return [self._trajectory(problem, solution) for solution in self.solutions_of[problem.id]], Ledger()

    def _trajectory(self, problem: Problem, solution: LabelledSolution) -> Trajectory:
        if solution.prompt_ids is None or solution.step_ids is None:
            raise ProblemError("its solutions have no token ids, wanted some that a policy wrote")
        num_steps = len(solution.completions)
        delimiters = solution.delimiters or (*repeat(self.delimiter, num_steps - 1), "")
        thinking = solution.thinking or (False,) * num_steps
        parts = zip(solution.step_ids, solution.completions, delimiters, thinking, strict=True)
        steps = [Step(token_ids=ids, text=text + end, thinking=thinks) for ids, text, end, thinks in parts]
        return Trajectory(
            problem=problem,
            prompt_ids=solution.prompt_ids,
            steps=tuple(steps),
            status=Status.TRUNCATED if solution.truncated else Status.FINISHED,
            answer=self.answers.extract("".join(step.text for step in steps if not step.thinking)),
        )


def as_labelled(solution: Trajectory, labels: Labels, source: str, delimiters: Sequence[str]) -> LabelledSolution:
    """The row of a solution. `delimiters` are what steps end with."""
    ends = [next(filter(step.text.endswith, delimiters), "") for step in solution.steps]
    return LabelledSolution(
        problem_id=solution.problem.id,
        source=source,
        prompt=solution.problem.messages[-1].content,
        completions=tuple(step.text.removesuffix(end) for step, end in zip(solution.steps, ends, strict=True)),
        labels=labels,
        prompt_ids=solution.prompt_ids,
        step_ids=tuple(step.token_ids for step in solution.steps),
        delimiters=tuple(ends),
        thinking=tuple(step.thinking for step in solution.steps),
        truncated=solution.status is Status.TRUNCATED,
    )


def _without_empty_end(solution: Trajectory) -> Trajectory:
    """An end token after the last delimiter is no step of its own: it belongs to the one before."""
    *steps, last = solution.steps
    if last.text or not steps:
        return solution
    joined = replace(steps[-1], token_ids=steps[-1].token_ids + last.token_ids)
    return replace(solution, steps=(*steps[:-1], joined))
