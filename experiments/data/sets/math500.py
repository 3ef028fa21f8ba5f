"""MATH-500: 500 problems of MATH's test split (Hendrycks et al., arXiv 2103.03874) that Lightman et al. (arXiv
2305.20050) held out. The answer is mathematics, in a box."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.data import records
from experiments.data.few_shot import MATH_SHOTS, math_shots
from experiments.data.hub import HubTable
from experiments.data.prompts import boxed
from experiments.data.published import Item, RecordsConfig
from orchestrator.core.answers import reference_answer


@dataclass(frozen=True, kw_only=True)
class Math500(RecordsConfig):
    """Fields `problem`, `answer`, `level` (1 to 5: the difficulty) and `unique_id`."""

    shots: int = 0  # worked examples before each problem, of Minerva's 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_shots(self.shots, MATH_SHOTS)

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="HuggingFaceH4/MATH-500"),)

    def item(self, record: Mapping[str, Any]) -> Item:
        problem = records.text(record, "problem")
        return Item(
            problem=problem,
            prompt=boxed(problem),
            messages=math_shots(self.shots, problem) if self.shots else (),
            reference=reference_answer(records.reference(record, "answer")),
            id=records.text(record, "unique_id"),
            difficulty=records.number(record, "level"),
        )
