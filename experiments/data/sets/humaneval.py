"""HumanEval (Chen et al., arXiv 2107.03374): the heads and docstrings of 164 functions, shown as they are. A solution
is the function or its body; unit tests that nobody is shown grade it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.published import Item, RecordsConfig
from experiments.data.references import unit_tests


@dataclass(frozen=True, kw_only=True)
class HumanEval(RecordsConfig):
    """Fields `task_id`, `prompt`, `test` and `entry_point`."""

    graders: ClassVar[tuple[str, ...]] = ("code",)

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="openai/openai_humaneval"),)

    @property
    def hidden_fields(self) -> tuple[str, ...]:
        return ("test",)

    def item(self, record: Mapping[str, Any]) -> Item:
        records.text(record, "entry_point")
        return Item(
            problem=records.text(record, "prompt"),
            reference=unit_tests(record, "test"),
            id=records.text(record, "task_id"),
        )
