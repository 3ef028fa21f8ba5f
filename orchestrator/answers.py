"""The two kinds of answers that a data set can have: equal as strings, or equal as mathematics. Both implement
`Answers`: one extraction and one equality for graders, votes, the trust gate, replays and the endpoint."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.nouns import Comparison
from orchestrator.core.protocols import Answers
from verifiers.equivalence import Equivalence

KINDS = ("exact", "math")
"""What `data.grader` can be."""


@asynccontextmanager
async def open_answers(kind: str, format: AnswerFormat) -> AsyncIterator[Answers]:
    """Answers of one of the `KINDS`; leaving ends what a comparison started."""
    if kind == "exact":
        yield ExactAnswers(format)
        return
    equivalence = Equivalence()
    try:
        yield MathAnswers(format, equivalence)
    finally:
        equivalence.close()


class MathAnswers:
    """Equal are answers that mean the same: math-verify with our own checks around it, in a process of its own that the
    first hard comparison starts."""

    def __init__(self, format: AnswerFormat, equivalence: Equivalence) -> None:
        self.extract = format.extract
        self._equivalence = equivalence
        self._one_at_a_time = asyncio.Lock()  # those that wait take no thread

    async def group(self, answers: Sequence[str | None]) -> list[int | None]:
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._equivalence.classes, answers)

    async def compare(self, reference: str, answers: Sequence[str | None]) -> list[Comparison]:
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._equivalence.compare, reference, answers)
