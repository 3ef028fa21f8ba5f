"""The kinds of answers that a data set can have. All implement `Answers`: one extraction and one equality for graders,
votes, the trust gate, replays and the endpoint.

To add a kind: a class with the methods of `Answers`, its name in `KINDS`, and a line in `open_answers`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.answers.choices import ChoiceAnswers, letter_of
from orchestrator.answers.code import CodeAnswers
from orchestrator.answers.mathematics import MathAnswers
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.protocols import Answers
from verifiers.equivalence import Equivalence

__all__ = ["KINDS", "letter_of", "open_answers"]

KINDS = ("exact", "math", "choice", "code")
"""What `data.grader` can be."""


@asynccontextmanager
async def open_answers(kind: str, format: AnswerFormat) -> AsyncIterator[Answers]:
    """Answers of one of the `KINDS`; leaving ends what a comparison started."""
    match kind:
        case "exact":
            yield ExactAnswers(format)
        case "choice":
            yield ChoiceAnswers(format)
        case "code":
            yield CodeAnswers(format)
        case _:
            equivalence = Equivalence()
            try:
                yield MathAnswers(format, equivalence)
            finally:
                equivalence.close()
