"""Graders: ground truth from reference answers. Never part of a search."""

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from types import TracebackType

from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Problem
from verifiers.equivalence import Equivalence


class ExactGrader:
    """Correct is the same string, after the normalisation that extraction does."""

    def __init__(self, references: Mapping[str, str]) -> None:
        self._references = references

    async def __aenter__(self) -> "ExactGrader":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[bool]:
        return [answer == self._references[problem.id] for answer in answers]


class MathGrader:
    """Mathematical equivalence by math-verify."""

    def __init__(self, references: Mapping[str, str], timeout_s: float = 60.0) -> None:
        self._references = references
        self._equivalence = Equivalence(timeout_s)
        self._one_at_a_time = asyncio.Lock()  # those that wait take no thread

    async def __aenter__(self) -> "MathGrader":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._equivalence.close()

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[bool]:
        """Raises ProblemError when the comparison does not end within the timeout."""
        async with self._one_at_a_time:
            try:
                return await asyncio.to_thread(self._equivalence.compare, self._references[problem.id], answers)
            except TimeoutError as error:
                raise ProblemError(f"grading: {error}") from None


GRADERS: dict[str, type[ExactGrader] | type[MathGrader]] = {"exact": ExactGrader, "math": MathGrader}


def make_grader(name: str, references: Mapping[str, str]) -> ExactGrader | MathGrader:
    """The grader of that name. Raises UserError with the valid names."""
    if name not in GRADERS:
        near = difflib.get_close_matches(name, GRADERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"data.grader: got {name!r}, wanted one of {', '.join(GRADERS)}{hint}")
    return GRADERS[name](references)
