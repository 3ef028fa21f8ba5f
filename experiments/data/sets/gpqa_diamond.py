"""GPQA Diamond (Rein et al., arXiv 2311.12022): 198 questions of graduate science with four choices. The prompt is the
paper's for no examples, with its chain of thought before the answer. The answer is a letter."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.prompts import LETTERS
from experiments.data.published import Item, RecordsConfig

_ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_FORM = 'Think step by step, then format your response as follows: "The correct answer is (insert answer here)"'


@dataclass(frozen=True, kw_only=True)
class GpqaDiamond(RecordsConfig):
    """Fields `Record ID`, `Question`, `Correct Answer` and `Incorrect Answer 1` to `3`."""

    choice_seed: int = 0  # the order of the choices, of each question by itself

    graders: ClassVar[tuple[str, ...]] = ("choice",)

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="Idavidrein/gpqa", config="gpqa_diamond", split="train"),)

    def item(self, record: Mapping[str, Any]) -> Item:
        id, question = records.text(record, "Record ID"), records.text(record, "Question").strip()
        answers = [records.text(record, name).strip() for name in _ANSWERS]
        order = list(range(len(answers)))
        random.Random(f"gpqa_diamond/{self.choice_seed}/{id}").shuffle(order)
        choices = "\n".join(f"({letter}) {answers[index]}" for letter, index in zip(LETTERS, order, strict=False))
        problem = f"{question}\n\nChoices:\n{choices}"
        return Item(
            problem=problem,
            prompt=f"What is the correct answer to this question: {problem}\n\n{_FORM}",
            reference=LETTERS[order.index(0)],
            id=id,
        )
