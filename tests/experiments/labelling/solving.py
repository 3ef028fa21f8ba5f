"""A policy that solves the tiny task with mistakes, drawn from each request's seed. A token is a character."""

import random
from collections.abc import Sequence
from functools import partial

from experiments.tinymath.task import STEP_DELIMITER, TinyProblem
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Generation, Sampling, Verifier
from orchestrator.session import SearchSession
from tests.fakes import ScriptedPolicy


class NoisySolver(ScriptedPolicy):
    """Writes each step of the solution wrong with the chance of `mistakes`; who erred once goes on and answers 0."""

    def __init__(self, problems: Sequence[TinyProblem], mistakes: float = 0.2) -> None:
        super().__init__({})
        self.problems = problems
        self.mistakes = mistakes

    def _continuation(self, text: str, request: Generation) -> str:
        problem = next(problem for problem in self.problems if text.startswith(problem.prompt))
        written = text.removeprefix(problem.prompt)
        rng = random.Random(request.seed)
        steps = problem.solution.split(STEP_DELIMITER)
        wrong = not problem.solution.startswith(written)
        new = []
        for step in steps[written.count(STEP_DELIMITER) : -1]:
            wrong |= rng.random() < self.mistakes
            new.append("oops" if wrong else step)
        return STEP_DELIMITER.join([*new, "Answer: 0" if wrong else steps[-1]])


def unheard(**_: str | None) -> None:
    """Is told of the answers that are graded."""


def opening(policy: ScriptedPolicy, verifier: Verifier | None = None, seed: int = 0) -> "partial[SearchSession]":
    """What opens a session."""
    return partial(
        SearchSession,
        policy=policy,
        verifier=verifier,
        sampling=Sampling(max_tokens=400),
        budget=Budget(),
        run_seed=seed,
        answers=ExactAnswers(AnswerFormat.parse(None)),
    )
