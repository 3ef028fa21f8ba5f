"""Graders: ground truth from reference answers. Never part of a search."""

import asyncio
import difflib
import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.pool import Pool
from types import TracebackType

from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Problem


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
    """Mathematical equivalence by math-verify, in a process of its own: sympy can hang, and is then killed."""

    def __init__(self, references: Mapping[str, str], timeout_s: float = 60.0) -> None:
        self._references = references
        self._timeout_s = timeout_s
        self._pool: Pool | None = None
        self._one_at_a_time = asyncio.Lock()  # a timeout is then about this call alone

    async def __aenter__(self) -> "MathGrader":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[bool]:
        """Raises ProblemError when the comparison does not end within the timeout."""
        distinct = sorted({answer for answer in answers if answer is not None})
        async with self._one_at_a_time:
            if self._pool is None:
                self._pool = get_context("spawn").Pool(1)
            pending = self._pool.apply_async(_equivalent, (self._references[problem.id], distinct))
            try:
                verdicts = dict(zip(distinct, await asyncio.to_thread(pending.get, self._timeout_s), strict=True))
            except multiprocessing.TimeoutError:
                self._stop()
                raise ProblemError(f"grading did not end within {self._timeout_s:g} s") from None
        return [answer is not None and verdicts[answer] for answer in answers]


def _equivalent(reference: str, answers: list[str]) -> list[bool]:
    """math-verify limits each comparison by an alarm, which works in a process's main thread only: so here."""
    from math_verify import parse, verify

    gold = parse(f"\\boxed{{{reference}}}")
    return [answer == reference or verify(gold, parse(f"\\boxed{{{answer}}}")) for answer in answers]


GRADERS: dict[str, type[ExactGrader] | type[MathGrader]] = {"exact": ExactGrader, "math": MathGrader}


def make_grader(name: str, references: Mapping[str, str]) -> ExactGrader | MathGrader:
    """The grader of that name. Raises UserError with the valid names."""
    if name not in GRADERS:
        near = difflib.get_close_matches(name, GRADERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"data.grader: got {name!r}, wanted one of {', '.join(GRADERS)}{hint}")
    return GRADERS[name](references)
