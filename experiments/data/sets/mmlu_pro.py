"""MMLU-Pro (Wang et al., arXiv 2406.01574): questions of 14 subjects with up to ten choices. The prompt is the paper's
chain of thought without its five examples. The answer is a letter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.prompts import LETTERS
from experiments.data.published import Item, RecordsConfig

_TASK = (
    "The following are multiple choice questions (with answers) about {category}. Think step by step and then finish "
    'your answer with "the answer is (X)" where X is the correct letter choice.'
)


@dataclass(frozen=True, kw_only=True)
class MmluPro(RecordsConfig):
    """Fields `question_id`, `question`, `options` (a list), `answer` (a letter) and `category`."""

    graders: ClassVar[tuple[str, ...]] = ("choice",)

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="TIGER-Lab/MMLU-Pro"),)

    def item(self, record: Mapping[str, Any]) -> Item:
        question, options = records.text(record, "question"), records.texts(record, "options")
        letters, answer = LETTERS[: len(options)], records.text(record, "answer")
        if len(options) > len(LETTERS) or len(answer) != 1 or answer not in letters:
            raise ValueError(f"has a bad 'answer': wanted the letter of one of {len(options)} options, got {answer!r}")
        choices = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
        problem = f"Question: {question}\nOptions:\n{choices}"
        task = _TASK.replace("{category}", records.text(record, "category"))
        return Item(
            problem=problem,
            prompt=f"{task}\n\n{problem}\nAnswer: Let's think step by step.",
            reference=answer,
            id=records.text(record, "question_id"),
        )
