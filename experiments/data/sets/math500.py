"""MATH-500: 500 problems of MATH's test split (Hendrycks et al., arXiv 2103.03874) that Lightman et al. (arXiv
2305.20050) held out. The answer is mathematics, in a box."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.prompts import boxed
from experiments.data.published import Item, RecordsConfig
from orchestrator.core.answers import reference_answer


@dataclass(frozen=True, kw_only=True)
class Math500(RecordsConfig):
    """Fields `problem`, `answer`, `level` (1 to 5: the difficulty) and `unique_id`."""

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="HuggingFaceH4/MATH-500"),)

    def item(self, record: Mapping[str, Any]) -> Item:
        problem = records.text(record, "problem")
        return Item(
            problem=problem,
            prompt=boxed(problem),
            reference=reference_answer(records.reference(record, "answer")),
            id=records.text(record, "unique_id"),
            difficulty=records.number(record, "level"),
        )
