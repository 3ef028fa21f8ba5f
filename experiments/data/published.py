"""Data sets that are read record by record: from a file of the user's, or else from the hub they are published on.

To add one: a dataclass that derives from `RecordsConfig` and says what a record means (`item`), and a line in
`experiments.data.sets.DATASETS`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.data.datasets import DataConfig, Dataset, Example
from experiments.data.files import Record, file_records
from experiments.data.hub import HubTable, hub_records
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Message, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a record says."""

    problem: str  # what `{problem}` in a prompt template stands for
    reference: str
    id: str | None = None  # None: the record's number
    difficulty: float | None = None
    prompt: str | None = None  # as the paper asks; None: the problem alone
    messages: tuple[Message, ...] = ()  # as a paper asks in several turns: in place of the prompt


@dataclass(frozen=True, kw_only=True)
class RecordsConfig(DataConfig):
    """Which records, and how they become prompts."""

    path: str | None = None  # None: downloaded by the library `datasets`
    prompt_template: str | None = None  # None: what the data set's paper asks
    skip_bad: bool = False  # records that don't fit are left out and counted; else the first is an error

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_template is not None and "{problem}" not in self.prompt_template:
            raise ValueError(f"prompt_template must contain {{problem}}, got {self.prompt_template!r}")
        if shown := [name for name in self.metadata_fields if name in self.hidden_fields]:
            raise ValueError(
                f"metadata_fields: {shown[0]!r} holds the tests that grade, and strategies see the metadata; wanted "
                "other fields"
            )

    def _check_shots(self, shots: int, most: int) -> None:
        """Raises ValueError for a number of worked examples that there are not, or that a template has no place for."""
        if not 0 <= shots <= most:
            raise ValueError(f"shots must be in 0..{most} for {self.name}, got {shots}")
        if shots and self.prompt_template is not None:
            raise ValueError("shots: the worked examples have a form of their own, wanted no prompt_template with them")

    @property
    def file_format(self) -> str | None:
        """A key of `experiments.data.files.FORMATS`. None: what the file's name ends with says."""
        return None

    @property
    def hidden_fields(self) -> tuple[str, ...]:
        """Fields of the records that no strategy may see."""
        return ()

    @property
    def tables(self) -> tuple[HubTable, ...]:
        """Where it is published. Empty: nowhere, it needs a path."""
        return ()

    @property
    def source(self) -> str:
        return self.path or self.name

    @abstractmethod
    def item(self, record: Mapping[str, Any]) -> Item:
        """Raises ValueError for a record that does not fit."""

    def load(self) -> Dataset:
        examples: list[Example] = []
        skipped: list[str] = []
        for record in self._records():
            if len(examples) == self.num_problems:
                break
            try:
                if record.error is not None:
                    raise ValueError(record.error)
                examples.append(self._example(record))
            except UserError:
                raise
            except ValueError as error:
                if not self.skip_bad:
                    raise UserError(f"data: {record.place} {error}") from None
                skipped.append(f"data: {record.place} {error}")
        return Dataset(examples=tuple(examples), skipped=tuple(skipped))

    def _records(self) -> Iterator[Record]:
        if self.path is not None:
            return file_records(self.path, self.file_format)
        if not self.tables:
            raise UserError(f"data.path is missing: {self.name} reads a file of yours")
        return hub_records(self.tables)

    def _example(self, record: Record) -> Example:
        item = self.item(record.fields)
        prompt = item.prompt or item.problem
        if self.prompt_template is not None:
            prompt = self.prompt_template.replace("{problem}", item.problem)
        problem = Problem(
            id=str(record.number) if item.id is None else item.id,
            messages=item.messages or (Message(role="user", content=prompt),),
            difficulty=item.difficulty,
            metadata=self.metadata(record.place, record.fields),
        )
        return Example(problem=problem, reference=item.reference)
