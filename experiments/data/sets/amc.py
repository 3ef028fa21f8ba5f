"""83 problems of the AMC 12 of 2022 and 2023, as in the validation set of the AIMO prize. The answer is a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.prompts import boxed
from experiments.data.published import Item, RecordsConfig


@dataclass(frozen=True, kw_only=True)
class Amc(RecordsConfig):
    """Fields `id`, `problem` and `answer`, a number (142.0 is 142)."""

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="AI-MO/aimo-validation-amc", split="train"),)

    def item(self, record: Mapping[str, Any]) -> Item:
        problem, answer = records.text(record, "problem"), records.number(record, "answer")
        return Item(
            problem=problem,
            prompt=boxed(problem),
            reference=str(int(answer) if answer.is_integer() else answer),
            id=records.text(record, "id"),
        )
