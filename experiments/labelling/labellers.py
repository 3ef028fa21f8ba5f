"""Who labels the steps of a problem's solutions. Each labeller gives the labels of every solution, and their cost.

The last step of a whole solution has no rollouts: the solution itself is its only completion.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from experiments.analysis.answer_shares import OnAnswer
from experiments.data.datasets import StepLabels
from experiments.labelling.estimates import Estimation, FirstError, Labels, hardened
from experiments.labelling.sources import OpenSession
from orchestrator.core.errors import ProblemError, first_error
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Comparison, Problem, Trajectory
from orchestrator.runner import Grader
from orchestrator.session import SearchSession


class Labeller(Protocol):
    async def label(self, problem: Problem, solutions: Sequence[Trajectory]) -> tuple[list[Labels], Ledger]: ...


class _Shares:
    """Of a problem's prefixes: the share of `k` completions that reach the right answer.

    Solutions that begin with the same tokens share what is estimated of them. Seeds derive from (run seed, problem,
    first solution with that prefix, step, completion): it does not matter which steps are asked about, and when. Owner
    of the tasks in which that happens.
    """

    def __init__(
        self,
        session: SearchSession,
        tasks: asyncio.TaskGroup,
        grader: Grader,
        k: int,
        solutions: Sequence[Trajectory],
        on_answer: OnAnswer,
    ) -> None:
        self._session = session
        self._tasks = tasks
        self._grader = grader
        self._k = k
        self._on_answer = on_answer
        self._paths: dict[tuple[int, ...], tuple[int, int]] = {}
        for index, solution in enumerate(solutions):
            for step in range(len(solution.steps)):
                self._paths.setdefault(_prefix(solution, step).token_ids, (index, step))
        self._asked: dict[tuple[int, int], asyncio.Task[float]] = {}

    def of(self, solution: Trajectory, step: int) -> "asyncio.Task[float]":
        """After a step of a solution."""
        prefix = _prefix(solution, step)
        path = self._paths[prefix.token_ids]
        if path not in self._asked:
            self._asked[path] = self._tasks.create_task(self._estimate(replace(prefix, path=path)))
        return self._asked[path]

    async def _estimate(self, prefix: Trajectory) -> float:
        completions = await self._session.rollout([prefix], self._k, scored=False)
        grades = await self._grader.grade(prefix.problem, [completion.answer for completion in completions])
        _tell(self._on_answer, completions, grades)
        decided = [grade.equal for grade in grades if grade.equal is not None]
        if not decided:
            raise ProblemError(f"none of {self._k} rollouts could be graded; the first: {grades[0].reason}")
        return sum(decided) / len(decided)


def _tell(on_answer: OnAnswer, solutions: Sequence[Trajectory], grades: Sequence[Comparison]) -> None:
    for solution, grade in zip(solutions, grades, strict=True):
        on_answer(answer=solution.answer, status=solution.status, undecided=grade.reason, text=solution.reply)


def _prefix(solution: Trajectory, step: int) -> Trajectory:
    steps = solution.steps[: step + 1]
    return Trajectory(problem=solution.problem, prompt_ids=solution.prompt_ids, steps=steps)


@dataclass(frozen=True, kw_only=True)
class _Rollouts(ABC):
    """Labels by `k` completions of the solutions from the ends of their steps. `on_answer` is told of the solutions
    and of these."""

    open_session: OpenSession
    grader: Grader
    k: int
    on_answer: OnAnswer

    async def label(self, problem: Problem, solutions: Sequence[Trajectory]) -> tuple[list[Labels], Ledger]:
        grades = await self.grader.grade(problem, [solution.answer for solution in solutions])
        _tell(self.on_answer, solutions, grades)
        try:
            async with self.open_session() as session, asyncio.TaskGroup() as tasks:
                shares = _Shares(session, tasks, self.grader, self.k, solutions, self.on_answer)
                labelling = [
                    tasks.create_task(self._labels(shares, solution, grade.equal))
                    for solution, grade in zip(solutions, grades, strict=True)
                ]
        except ExceptionGroup as group:
            raise first_error(group) from None
        return [task.result() for task in labelling], session.ledger

    @abstractmethod
    async def _labels(self, shares: _Shares, solution: Trajectory, right: bool | None) -> Labels:
        """Of one solution, which itself got the right answer or did not (None: nobody knows)."""


@dataclass(frozen=True, kw_only=True)
class MonteCarlo(_Rollouts):
    """Math-Shepherd's labels (arXiv 2312.08935). Hard estimation looks at a solution's steps in order, and no further
    than the first that is not above the threshold: the labels after it are 0 whatever they would be estimated as."""

    estimation: Estimation
    threshold: float

    async def _labels(self, shares: _Shares, solution: Trajectory, right: bool | None) -> Labels:
        last, last_label = len(solution.steps) - 1, None if right is None else float(right)
        if self.estimation is Estimation.soft:
            return (*await asyncio.gather(*(shares.of(solution, step) for step in range(last))), last_label)
        for step in range(last):
            if await shares.of(solution, step) <= self.threshold:
                return (1.0,) * step + (0.0,) * (last + 1 - step)
        return (1.0,) * last + (last_label,)


@dataclass(frozen=True, kw_only=True)
class BinarySearch(_Rollouts):
    """OmegaPRM's search for the first error (arXiv 2406.06592), for its hard labels. A solution with the right answer
    is itself a right completion of all its steps and needs no rollout."""

    async def _labels(self, shares: _Shares, solution: Trajectory, right: bool | None) -> Labels:
        num_steps = len(solution.steps)
        if right is None:
            return (None,) * num_steps
        if right:
            return (1.0,) * num_steps
        search = FirstError(high=num_steps - 1)
        while not search.found:
            search = search.told(await shares.of(solution, search.step) > 0)
        return search.labels(num_steps)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The scores of a verifier that judges steps."""

    open_session: OpenSession
    estimation: Estimation
    threshold: float

    async def label(self, problem: Problem, solutions: Sequence[Trajectory]) -> tuple[list[Labels], Ledger]:
        async with self.open_session() as session:
            judged = await session.score(solutions)
        scores = [tuple(step.score.mean if step.score else None for step in solution.steps) for solution in judged]
        hard = self.estimation is Estimation.hard
        return [hardened(score, self.threshold) if hard else score for score in scores], session.ledger


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The data set's own labels, where it knows which steps are right."""

    step_labels: StepLabels

    async def label(self, problem: Problem, solutions: Sequence[Trajectory]) -> tuple[list[Labels], Ledger]:
        texts = ([step.text for step in solution.steps] for solution in solutions)
        return [tuple(map(float, self.step_labels(problem.id, steps))) for steps in texts], Ledger()
