"""The American Invitational Mathematics Examination of 2024 and 2025, 30 problems each. The answer is a whole number
from 0 to 999."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.prompts import boxed
from experiments.data.published import Item, RecordsConfig

_TABLES = {
    2024: HubTable(repository="Maxwell-Jia/AIME_2024", split="train"),
    2025: HubTable(repository="math-ai/aime25"),
}


@dataclass(frozen=True, kw_only=True)
class Aime(RecordsConfig):
    """Fields `ID`, `Problem` and `Answer` (2024), or the same in small letters (2025)."""

    years: list[int] | None = None  # of the download; None: all

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.years is not None and self.path is not None:
            raise ValueError(f"years: choose what is downloaded, got {self.years} and path; wanted one of the two")
        if self.years is not None and (not self.years or not set(self.years) <= _TABLES.keys()):
            raise ValueError(f"years: wanted some of {', '.join(map(str, _TABLES))}, got {self.years}")

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return tuple(_TABLES[year] for year in self.years or _TABLES)

    def item(self, record: Mapping[str, Any]) -> Item:
        names = ("ID", "Problem", "Answer") if "Problem" in record else ("id", "problem", "answer")
        id_name, problem_name, answer_name = names
        problem = records.text(record, problem_name)
        answer = records.number(record, answer_name)
        if answer not in range(1000):
            raise ValueError(f"has a bad {answer_name!r}: wanted a whole number from 0 to 999, got {answer:g}")
        return Item(
            problem=problem, prompt=boxed(problem), reference=str(int(answer)), id=records.text(record, id_name)
        )
