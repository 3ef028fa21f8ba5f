"""Ground truth from reference answers. Never part of a search."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from experiments.data.datasets import DATASETS, DataConfig, Dataset
from orchestrator.answers import open_answers
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.nouns import Comparison, Problem
from orchestrator.core.protocols import Answers


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
    kind = DATASETS[config.name]
    answer_format = AnswerFormat.parse(kind.answer if config.answer is None else config.answer)
    return open_answers(config.grader or kind.grader, answer_format)
