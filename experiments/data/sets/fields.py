"""Any file of records, by the names of its fields: JSON Lines, JSON, CSV or Parquet, as the data set's name says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.published import Item, RecordsConfig
from experiments.data.references import choice, unit_tests
from orchestrator.core.answers import reference_answer


@dataclass(frozen=True, kw_only=True)
class Fields(RecordsConfig):
    """Where things stand in a record. MATH-500's fields are the defaults."""

    problem_field: str = "problem"
    answer_field: str = "answer"  # the reference answer; with grader: code the unit tests
    id_field: str | None = None  # None: the record's number
    difficulty_field: str | None = None

    graders: ClassVar[tuple[str, ...]] = ("math", "exact", "choice", "code")

    @property
    def file_format(self) -> str:
        return self.name

    @property
    def hidden_fields(self) -> tuple[str, ...]:
        return (self.answer_field,) if self.equality == "code" else ()

    def item(self, record: Mapping[str, Any]) -> Item:
        return Item(
            problem=records.text(record, self.problem_field),
            reference=self._reference(record),
            id=None if self.id_field is None else records.text(record, self.id_field),
            difficulty=None if self.difficulty_field is None else records.number(record, self.difficulty_field),
        )

    def _reference(self, record: Mapping[str, Any]) -> str:
        if self.equality == "code":
            return unit_tests(record, self.answer_field)
        if self.equality == "choice":
            return choice(record, self.answer_field)
        return reference_answer(records.reference(record, self.answer_field))
