"""Data sets: problems for the strategies, reference answers for the grader, kept apart from the start.

A data set is a frozen dataclass that derives from `DataConfig`: its fields are its YAML, `load` gives its examples.
`experiments.data.sets` names them all.

The fields that `metadata_fields` names go along with the problem, where verifiers and strategies can see them. A rule
verifier compares with such a field. If it is the field of the reference answer, the verifier is an oracle.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from orchestrator.core.answers import CODE_RULES, AnswerFormat
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Problem

_ANSWERS = {"exact": "auto", "math": "auto", "choice": "choice", "code": "program"}  # what suits a grader

StepLabels = Callable[[str, Sequence[str]], list[bool]]
"""Whether each step of a solution is right, from the problem's id and the texts of the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A problem and its reference answer, which only the grader gets."""

    problem: Problem
    reference: str  # of a code problem: its unit tests (`verifiers.code_reference`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """`skipped` says of each record that was left out what is wrong with it."""

    examples: tuple[Example, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataConfig(ABC):
    """Which problems, and how their answers are found and compared. Each data set adds what is its own."""

    name: str = MISSING  # a key of `experiments.data.sets.DATASETS`
    num_problems: int | None = None  # None: all
    grader: str | None = None  # one of `graders`; None: the first
    answer: Any = None  # where an answer stands in a text: see `AnswerFormat.parse`; None: what suits the data set
    metadata_fields: list[str] = field(default_factory=list)  # of the records, as they are, for verifiers to see

    graders: ClassVar[tuple[str, ...]] = ("math", "exact")
    """Of `orchestrator.answers.KINDS` those that can grade it, the usual one first."""
    usual_answer: ClassVar[str | None] = None
    """Where its answers stand in a text, in the form of `answer`. None: what suits the grader."""

    def __post_init__(self) -> None:
        if self.num_problems is not None and self.num_problems < 1:
            raise ValueError(f"num_problems must be >= 1, got {self.num_problems}")
        if self.grader is not None and self.grader not in self.graders:
            raise ValueError(f"grader: got {self.grader!r}, wanted one of {', '.join(self.graders)} for {self.name}")
        try:
            rules = self.answer_format.rules
        except ValueError as error:
            raise ValueError(f"answer: {error}") from None
        if self.equality == "code" and not set(rules) <= set(CODE_RULES):
            raise ValueError(f"answer: got {self.answer!r}, wanted {' or '.join(CODE_RULES)}, for code is graded")

    @property
    def equality(self) -> str:
        """When two answers are equal: one of `orchestrator.answers.KINDS`."""
        return self.grader or self.graders[0]

    @property
    def answer_format(self) -> AnswerFormat:
        """Where an answer stands in a text."""
        return AnswerFormat.parse(self.answer_rule)

    @property
    def answer_rule(self) -> Any:
        """The same, in the form of `answer`."""
        return (self.usual_answer or _ANSWERS[self.equality]) if self.answer is None else self.answer

    @property
    def source(self) -> str:
        """Where the problems come from, for messages."""
        return self.name

    @abstractmethod
    def load(self) -> Dataset:
        """Raises UserError for what can't be read."""

    def step_labels(self) -> StepLabels | None:
        """What knows whether steps of solutions are right; None where nobody does."""
        return None

    def metadata(self, owner: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """The named fields of a record. Raises UserError where it lacks one."""
        for name in self.metadata_fields:
            if name not in record:
                raise UserError(f"data.metadata_fields: {owner} has no field {name!r}, it has {', '.join(record)}")
        return {name: record[name] for name in self.metadata_fields}


def load_dataset(config: DataConfig) -> Dataset:
    """Raises UserError for an unreadable or empty source, and a record that does not fit."""
    dataset = config.load()
    if not dataset.examples:
        skipped = dataset.skipped
        why = f"; {len(skipped)} were skipped, the first: {skipped[0]}" if skipped else ""
        raise UserError(f"data: {config.source} holds no problem, wanted at least one{why}")
    ids = Counter(example.problem.id for example in dataset.examples)
    if len(ids) < len(dataset.examples):
        raise UserError(f"data: problem ids must be unique, got {ids.most_common(1)[0][0]!r} more than once")
    return dataset
