"""Verifiers that are rules: a whole solution is right (1.0) or wrong (0.0), at no cost in tokens.

Most compare with a field of the problem's metadata, which holds what the user named in `data.metadata_fields` and
nothing else. With the answer's own field there a rule is an oracle: an upper bound, or a verifiable reward. A solution
without an answer is wrong; a problem without the field, or a comparison that does not end, says nothing about the
solution and is `Unreadable`. Without a pool: `ExactMatchHost.load(settings).read(runs)`, with one boundary each.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import regex

from orchestrator.core.answers import AnswerFormat, reference_answer
from orchestrator.core.answers.exact import spelling
from orchestrator.core.nouns import Problem, Score
from orchestrator.core.protocols import Solution
from verifiers.contract import Answer, HostSettings, Read, Run, StateBlob, Unreadable, VerifierInfo
from verifiers.equivalence import Equivalence

_MATCH_TIMEOUT_S = 5.0  # patterns can take exponentially long


class NoVerdict(Exception):
    """A rule can't say whether a solution is right, for a reason that is not the solution's."""


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """Of a rule that may look at the answer of a solution."""

    answer: Any = None  # where it stands, in the form of `data.answer`; None: where the data's answers stand

    def __post_init__(self) -> None:
        AnswerFormat.parse(self.answer)

    @property
    def reads_answer(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(AnswerOptions):
    """Of a rule that compares answers."""

    field: str = "answer"  # of the problem's metadata: the reference


class Part(StrEnum):
    text = "text"
    answer = "answer"


@dataclass(frozen=True, kw_only=True)
class RegexOptions(AnswerOptions):
    """Of a regular expression, in the syntax of the `regex` package (a superset of `re`'s)."""

    pattern: str
    part: Part = Part.text  # of the solution, which is looked at
    whole: bool = False  # it must match all of the part, not somewhere in it

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            regex.compile(self.pattern)
        except regex.error as error:
            raise ValueError(f"regex: pattern must be a regular expression, got {self.pattern!r}: {error}") from None

    @property
    def reads_answer(self) -> bool:
        return self.part is Part.answer


class RuleHost(ABC):
    """What the rules share: they hold no state, so there is none to miss, to free or to move."""

    def __init__(self, settings: HostSettings) -> None:
        self.info = VerifierInfo(
            name=settings.name,
            model_hash=repr(settings.options),
            tokenizer_fingerprint="",
            state_bytes=0,
            flops_per_token=0.0,
        )
        self._options: Any = settings.options

    @classmethod
    def load(cls, settings: HostSettings) -> Self:
        return cls(settings)

    @abstractmethod
    def judge(self, solution: Solution) -> float:
        """In [0, 1]. Raises NoVerdict."""

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        return [self._read(run) for run in runs]

    def _read(self, run: Run) -> Answer:
        scores: tuple[Score, ...] = ()
        if run.boundaries:
            assert run.solution is not None, "a rule is registered with reads_text"
            try:
                scores = (Score(mean=self.judge(run.solution)),) * len(run.boundaries)
            except NoVerdict as error:
                return Unreadable(reason=f"{self.info.name}: {error}")
        return Read(scores=scores, tokens_read=0, flops=0.0)

    def release(self, keys: Sequence[str]) -> None:  # noqa: B027 - there is nothing to forget
        pass

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        return [None] * len(keys)

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        """Raises ValueError: no such state exists."""
        if any(blob is not None for blob in blobs):
            raise ValueError(f"verifier state refused: {self.info.name} carries none")


class ExactMatchHost(RuleHost):
    """The answer is the same string as the reference, both normalised."""

    def judge(self, solution: Solution) -> float:
        answer = _answer(solution, self._options)
        reference = _reference(solution.problem, self._options)
        return float(answer is not None and spelling(answer) == spelling(reference))


class MathEquivalenceHost(RuleHost):
    """The answer is mathematically equal to the reference, as the grader `math` has it."""

    def __init__(self, settings: HostSettings) -> None:
        super().__init__(settings)
        self._equivalence = Equivalence()

    def judge(self, solution: Solution) -> float:
        reference = _reference(solution.problem, self._options)
        [comparison] = self._equivalence.compare(reference, [_answer(solution, self._options)])
        if comparison.equal is None:
            raise NoVerdict(comparison.reason)
        return float(comparison.equal)

    def close(self) -> None:
        """Ends the process that compares; it also ends with this one."""
        self._equivalence.close()


class RegexHost(RuleHost):
    """The pattern matches the text, or the answer."""

    def __init__(self, settings: HostSettings) -> None:
        super().__init__(settings)
        pattern = regex.compile(self._options.pattern)
        self._match = pattern.fullmatch if self._options.whole else pattern.search

    def judge(self, solution: Solution) -> float:
        text: str | None = "".join(solution.steps)
        if self._options.part is Part.answer:
            text = _answer(solution, self._options)
        try:
            return float(text is not None and self._match(text, timeout=_MATCH_TIMEOUT_S) is not None)
        except TimeoutError:
            raise NoVerdict(
                f"the match of {self._options.pattern!r} did not end within {_MATCH_TIMEOUT_S:g} s"
            ) from None


def metadata_field(problem: Problem, name: str) -> Any:
    """Raises NoVerdict that says how to have it there."""
    if name not in problem.metadata:
        has = ", ".join(problem.metadata) or "none"
        raise NoVerdict(
            f"the problem {problem.id!r} has no metadata field {name!r}, it has {has};"
            f" data.metadata_fields: [{name}] takes it from the data set"
        )
    return problem.metadata[name]


def _answer(solution: Solution, options: AnswerOptions) -> str | None:
    return AnswerFormat.parse(options.answer).extract("".join(solution.steps))


def _reference(problem: Problem, options: ReferenceOptions) -> str:
    value = metadata_field(problem, options.field)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise NoVerdict(f"the metadata field {options.field!r} of {problem.id!r} must be text or a number, got {kind}")
    return reference_answer(str(value))
