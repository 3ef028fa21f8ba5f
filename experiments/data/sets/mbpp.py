"""MBPP (Austin et al., arXiv 2108.07732): small tasks in a sentence, with the three tests that grade them. The prompt
is the paper's, which shows the tests, without its three examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.published import Item, RecordsConfig
from experiments.data.references import unit_tests

_SPLITS = ("test", "train", "validation", "prompt")


@dataclass(frozen=True, kw_only=True)
class Mbpp(RecordsConfig):
    """Fields `task_id`, `text` (`prompt` in the sanitized form), `test_list` and perhaps `test_setup_code` or
    `test_imports`."""

    split: str = "test"  # of the download: the paper's 500 problems

    graders: ClassVar[tuple[str, ...]] = ("code",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in _SPLITS:
            raise ValueError(f"split: got {self.split!r}, wanted one of {', '.join(_SPLITS)}")

    @property
    def tables(self) -> tuple[HubTable, ...]:
        return (HubTable(repository="google-research-datasets/mbpp", config="full", split=self.split),)

    def item(self, record: Mapping[str, Any]) -> Item:
        text = records.text(record, "prompt" if "prompt" in record else "text")
        tests = "\n".join(records.texts(record, "test_list"))
        return Item(
            problem=f"{text} Your code should pass these tests:\n\n{tests}",
            prompt=f"You are an expert Python programmer, and here is your task: {text} Your code should pass these "
            f"tests:\n\n{tests}\n[BEGIN]\n",
            reference=unit_tests(record, "test_list"),
            id=records.text(record, "task_id"),
        )
