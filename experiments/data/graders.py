"""Ground truth from reference answers. Never part of a search."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from experiments.data.datasets import DataConfig, Dataset
from orchestrator.answers import open_answers
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Comparison, Problem
from orchestrator.core.protocols import Answers
from verifiers.sandbox import SandboxError
from verifiers.unit_tests import check_sandbox


class Grader:
    """Holds the reference answers, which problems do not. Equal is what the data set's answers say."""

    def __init__(self, references: Mapping[str, str], answers: Answers) -> None:
        self._references = references
        self._answers = answers

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[Comparison]:
        return await self._answers.compare(self._references[problem.id], answers)


def grader_of(dataset: Dataset, answers: Answers) -> Grader:
    return Grader({example.problem.id: example.reference for example in dataset.examples}, answers)


def answers_of(config: DataConfig) -> AbstractAsyncContextManager[Answers]:
    """How the data set's answers are found and compared: an async context, which ends what it started."""
    return open_answers(config.equality, config.answer_format)


def check_grader(config: DataConfig) -> None:
    """Raises UserError where this machine can't grade the data set's answers."""
    if config.equality != "code":
        return
    try:
        check_sandbox()
    except SandboxError as error:
        raise UserError(f"data.grader: code runs programs in a sandbox, which this machine lacks: {error}") from None
