"""The rule for programs: the code in a solution passes the problem's unit tests, each run in the sandbox.

The tests are a field of the problem's metadata: program text that runs after the solution in the same module and
raises where it is wrong (as in MBPP, and in HumanEval with its `check(...)` called), or `{input, output}`, what a
program reads and must print; one such test, or a list of them. The first kind calls the solution's own functions, so a
program that is made to cheat can (`verifiers.sandbox.Outcome`); the second is compared out of its reach.

A replica runs one program at a time: for more at once, more replicas. `verifier.stall_timeout_s` must be above the
limit of seconds times the tests of one problem.
"""

import ast
import dataclasses
import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

from orchestrator.core.protocols import Solution
from verifiers import confinement, sandbox
from verifiers.contract import HostSettings
from verifiers.rules import NoVerdict, RuleHost, metadata_field
from verifiers.sandbox import Ended, Limits, SandboxError

log = logging.getLogger(__name__)

_BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitTestsOptions:
    """Which tests, how they make a score, and what one of them may use."""

    field: str = "tests"  # of the problem's metadata
    partial: bool = False  # the score is the share of tests that pass; else 1.0 when all do
    limits: Limits = dataclasses.field(default_factory=Limits)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assertions:
    """Program text that raises where the solution is wrong."""

    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a program reads and must print."""

    input: str
    output: str


class UnitTestsHost(RuleHost):
    """The code of the solution passes the tests."""

    @classmethod
    def load(cls, settings: HostSettings) -> "UnitTestsHost":
        try:
            sandbox.check()
        except SandboxError as error:
            raise ValueError(f"unit_tests: {error}") from None
        if not confinement.landlock_version():
            log.warning("unit_tests: this kernel has no Landlock, so programs can read the host's files (not write)")
        return cls(settings)

    def judge(self, solution: Solution) -> float:
        options: UnitTestsOptions = self._options
        tests = parse_tests(metadata_field(solution.problem, options.field), options.field)
        code = extract_code("".join(solution.steps))
        verdicts = (passes(code, test, options.limits) for test in tests)
        try:
            return sum(verdicts) / len(tests) if options.partial else float(all(verdicts))  # `all` stops at a failure
        except SandboxError as error:
            raise NoVerdict(str(error)) from error


def passes(code: str, test: Assertions | Exchange, limits: Limits) -> bool:
    """Raises SandboxError."""
    if isinstance(test, Assertions):
        outcome = sandbox.run({"solution": code, "tests": test.source}, module="solution", limits=limits)
        return outcome.ended is Ended.COMPLETED
    outcome = sandbox.run({"solution": code}, stdin=test.input, limits=limits)
    return outcome.exit_code == 0 and same_output(outcome.stdout, test.output)


def extract_code(text: str) -> str:
    """The last fenced block that says it is Python, or else the last that says nothing, or else the whole text. A block
    that does not end goes to the end of the text."""
    blocks = [(match[1].lower(), match[2]) for match in _BLOCK.finditer(text)]
    for labels in (("python", "python3", "py"), ("",)):
        fitting = [code for label, code in blocks if label in labels]
        if fitting:
            return fitting[-1]
    return text


def same_output(printed: str, wanted: str) -> bool:
    """Equal but for space at the ends of lines and blank lines at the end."""
    return _lines(printed) == _lines(wanted)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def parse_tests(value: Any, name: str) -> tuple[Assertions | Exchange, ...]:
    """The tests in the metadata field of that name. Raises NoVerdict: a broken test is no solution's fault."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise NoVerdict(f"the metadata field {name!r} must hold at least one test, got none")
    return tuple(_parse_test(value, name) for value in values)


def _parse_test(value: Any, name: str) -> Assertions | Exchange:
    match value:
        case str():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ast.parse(value)
            except (SyntaxError, ValueError) as error:  # ValueError: a null character
                raise NoVerdict(f"a test in the metadata field {name!r} is not Python: {error}") from None
            return Assertions(source=value)
        case {"input": str(read), "output": str(printed)}:
            return Exchange(input=read, output=printed)
    got = f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
    raise NoVerdict(f"a test in the metadata field {name!r} must be program text or {{input, output}} texts, got {got}")
