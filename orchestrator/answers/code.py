"""Answers that are programs: right are those that pass the unit tests of their problem, in the sandbox.

The reference is what `verifiers.code_reference` makes of the tests; no `Problem` holds it, so no strategy sees it.
"""

import ast
import asyncio
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.answers import AnswerFormat
from orchestrator.core.nouns import Comparison
from verifiers.code_blocks import extract_program
from verifiers.code_reference import from_reference
from verifiers.code_tests import Test
from verifiers.rules import NoVerdict
from verifiers.sandbox import Limits
from verifiers.unit_tests import UnitTests

_AT_ONCE = max(1, len(os.sched_getaffinity(0)) // 2)  # programs: each wants a core, and engines run beside


class CodeAnswers:
    """Equal are programs of the same syntax: comments and layout don't count. Right is a program that passes all tests,
    as the verifier `unit_tests` has it; it is undecided where the tests can't be run."""

    def __init__(self, format: AnswerFormat) -> None:
        self.extract = format.extract
        self._tests = UnitTests(Limits(), "tests")
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def group(self, answers: Sequence[str | None]) -> list[int | None]:
        spelled = await asyncio.to_thread(lambda: [None if a is None else _spelled(a) for a in answers])
        numbers: dict[str, int] = {}
        return [None if one is None else numbers.setdefault(one, len(numbers)) for one in spelled]

    async def compare(self, reference: str, answers: Sequence[str | None]) -> list[Comparison]:
        tests, fields = await asyncio.to_thread(from_reference, reference)
        distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._compared(tests, fields, answer)) for answer in distinct]
        found: dict[str | None, Comparison] = {None: Comparison(equal=False)}
        found |= dict(zip(distinct, [task.result() for task in running], strict=True))
        return [found[answer] for answer in answers]

    async def _compared(self, tests: Sequence[Test], fields: Mapping[str, Any], answer: str) -> Comparison:
        """A test is one call, so that a cancelled comparison ends with the test that it is at."""
        async with self._turns:
            verdicts = self._tests.verdicts(answer, tests, fields)
            try:
                while (passed := await asyncio.to_thread(next, verdicts, None)) is not None:
                    if not passed:
                        return Comparison(equal=False)
            except NoVerdict as error:
                return Comparison(equal=None, reason=str(error))
        return Comparison(equal=True)


def _spelled(answer: str) -> str:
    """The program without comments and layout; the answer as it is where it is no Python."""
    program = "\n".join(extract_program(answer))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.unparse(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return answer
