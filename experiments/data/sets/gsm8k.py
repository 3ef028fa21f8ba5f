"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems, asked as they are or after worked examples. The
answer is a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.few_shot import GSM8K_SHOTS, gsm8k_shots
from experiments.data.hub import HubTable
from experiments.data.published import Item, RecordsConfig
from orchestrator.core.answers import reference_answer


@dataclass(frozen=True, kw_only=True)
class Gsm8k(RecordsConfig):
    """Fields `question` and `answer`, the reference after `####`."""

    split: str = "test"  # of the download: train or test
    shots: int = 0  # worked examples before each problem, of Wei et al.'s 8

    usual_answer: ClassVar[str] = "gsm8k"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("train", "test"):
            raise ValueError(f"split: got {self.split!r}, wanted train or test")
        self._check_shots(self.shots, GSM8K_SHOTS)

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="openai/gsm8k", config="main", split=self.split),)

    def item(self, record: Mapping[str, Any]) -> Item:
        question = records.text(record, "question")
        return Item(
            problem=question,
            messages=gsm8k_shots(self.shots, question) if self.shots else (),
            reference=reference_answer(records.reference(record, "answer")),
        )
