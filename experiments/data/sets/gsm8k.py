"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems, asked as they are. The answer is a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.published import Item, RecordsConfig
from orchestrator.core.answers import reference_answer


@dataclass(frozen=True, kw_only=True)
class Gsm8k(RecordsConfig):
    """Fields `question` and `answer`, the reference after `####`."""

    split: str = "test"  # of the download: train or test

    usual_answer: ClassVar[str] = "gsm8k"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("train", "test"):
            raise ValueError(f"split: got {self.split!r}, wanted train or test")

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="openai/gsm8k", config="main", split=self.split),)

    def item(self, record: Mapping[str, Any]) -> Item:
        return Item(
            problem=records.text(record, "question"),
            reference=reference_answer(records.reference(record, "answer")),
        )
