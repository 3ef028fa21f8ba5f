"""Answers that are equal as mathematics."""

import asyncio
from collections.abc import Sequence

from orchestrator.core.answers import AnswerFormat
from orchestrator.core.nouns import Comparison
from verifiers.equivalence import Equivalence


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
