"""The rule for programs: the code in a solution passes the problem's unit tests, each run in the sandbox.

The tests are a field of the problem's metadata (`verifiers.code_tests` says in which formats). Program text and calls
run in the solution's module after it, so a program that is made to cheat can (`verifiers.sandbox.Outcome`); what a
program prints is compared out of its reach. A test that an empty program passes says nothing, and is refused.

A replica runs one program at a time: for more at once, more replicas. `verifier.stall_timeout_s` must be above the
limit of seconds times the tests of one problem, and as much again for the first solution of a problem.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from orchestrator.core.protocols import Solution
from verifiers import confinement, sandbox
from verifiers.code_blocks import continued, defines, extract_program, global_names
from verifiers.code_tests import Assertions, Call, Exchange, Test, parse_tests
from verifiers.contract import HostSettings
from verifiers.rules import NoVerdict, RuleHost, metadata_field
from verifiers.sandbox import Ended, Limits, Outcome, SandboxError

log = logging.getLogger(__name__)


_THREADS = """
import threading
threading.Thread.start = lambda self: self.run()
threading.Thread.join = lambda self, timeout=None: None
threading.stack_size = lambda size=0: 0
"""  # the sandbox has one: solutions of contests run their `main` in another, for a larger stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitTestsOptions:
    """Which tests, how they make a score, and what one of them may use."""

    field: str = "tests"  # of the problem's metadata
    partial: bool = False  # the score is the share of tests that pass; else 1.0 when all do
    limits: Limits = dataclasses.field(default_factory=Limits)


class UnitTests:
    """Runs the tests of problems on the programs in texts. Threads may share one."""

    def __init__(self, limits: Limits, field: str) -> None:
        """`field`: what messages call the tests."""
        self._limits = limits
        self._field = field
        self._check = lru_cache(maxsize=4096)(self._check_says_something)

    def verdicts(self, text: str, tests: Sequence[Test], fields: Mapping[str, Any]) -> Iterator[bool]:
        """Whether each test passes; a test runs when its verdict is asked for. `fields`: `prompt` and
        `entry_point`, if there are any. Raises NoVerdict."""
        program = _program(text, tests, fields)
        try:
            for test in tests:
                if isinstance(test, Assertions):
                    self._check(test)
            for test in tests:
                yield passes(program, test, self._limits)
        except SandboxError as error:
            raise NoVerdict(str(error)) from error

    def _check_says_something(self, test: Assertions) -> None:
        """Raises NoVerdict for a test that an empty program passes, or that can't begin."""
        if passes((), test, self._limits):
            raise NoVerdict(f"a test in the metadata field {self._field!r} asserts nothing: an empty program passes it")
        if test.setup and (outcome := _run((), test.setup, "", self._limits)).ended is not Ended.COMPLETED:
            raise NoVerdict(f"what a test in {self._field!r} sets up before the solution fails: {outcome.message}")


def check_sandbox() -> None:
    """Raises SandboxError where programs can't be run safely; warns where they can read the host's files."""
    sandbox.check()
    if not confinement.landlock_version():
        log.warning("unit_tests: this kernel has no Landlock, so programs can read the host's files (not write)")


class UnitTestsHost(RuleHost):
    """The code of the solution passes the tests."""

    @classmethod
    def load(cls, settings: HostSettings) -> "UnitTestsHost":
        try:
            check_sandbox()
        except SandboxError as error:
            raise ValueError(f"unit_tests: {error}") from None
        return cls(settings)

    def __init__(self, settings: HostSettings) -> None:
        super().__init__(settings)
        self._tests = UnitTests(self._options.limits, self._options.field)

    def judge(self, solution: Solution) -> float:
        options: UnitTestsOptions = self._options
        metadata = solution.problem.metadata
        tests = parse_tests(metadata_field(solution.problem, options.field), options.field, metadata)
        verdicts = self._tests.verdicts("".join(solution.steps), tests, metadata)
        return sum(verdicts) / len(tests) if options.partial else float(all(verdicts))  # `all` stops at a failure


def passes(program: Sequence[str], test: Test, limits: Limits) -> bool:
    """`program`: its sources, run one after the other. Raises SandboxError."""
    if isinstance(test, Exchange):
        sources = _sources(program, test.setup)
        if any("thread" in source for source in program):
            sources = {"threads": _THREADS, **sources}
        outcome = sandbox.run(sources, stdin=test.input, limits=limits)
        return outcome.exit_code == 0 and same_output(outcome.stdout, test.output)
    return _run(program, test.setup, test.source, limits).ended is Ended.COMPLETED


def same_output(printed: str, wanted: str) -> bool:
    """Equal but for space around lines and blank lines around them all, each line as text or as numbers, as
    LiveCodeBench has it."""
    ours, theirs = printed.strip().splitlines(), wanted.strip().splitlines()
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(printed: str, wanted: str) -> bool:
    if printed.strip() == wanted.strip():
        return True
    try:
        return [Decimal(part) for part in printed.split()] == [Decimal(part) for part in wanted.split()]
    except InvalidOperation:
        return False


def _program(text: str, tests: Sequence[Test], fields: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = {"Solution"} | {test.name for test in tests if isinstance(test, Call)}
    wanted |= {name for test in tests if isinstance(test, Assertions) for name in global_names(test.source)}
    program = extract_program(text, wanted, reads_input=any(isinstance(test, Exchange) for test in tests))
    prompt, entry_point = fields.get("prompt"), fields.get("entry_point")
    if isinstance(prompt, str) and isinstance(entry_point, str) and not defines(program, entry_point):
        whole = continued(prompt, text, entry_point)
        return program if whole is None else (whole,)
    return program


def _run(program: Sequence[str], setup: str, tests: str, limits: Limits) -> Outcome:
    return sandbox.run({**_sources(program, setup), "tests": tests}, module="solution", limits=limits)


def _sources(program: Sequence[str], setup: str) -> dict[str, str]:
    """By the names that they have in tracebacks."""
    return {"setup": setup, **{f"solution, part {part}": source for part, source in enumerate(program, 1)}}
