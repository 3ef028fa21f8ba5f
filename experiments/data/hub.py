"""Records of a published data set, downloaded and cached by the library `datasets` (extra `headrace[train]`)."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.data.files import Record
from orchestrator.core.errors import NotHere


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTable:
    """One split of a data set on the hub."""

    repository: str
    config: str | None = None
    split: str = "test"
    files: tuple[str, ...] = ()  # its JSON Lines files, for a repository that has no tables of its own


def hub_records(tables: Sequence[HubTable]) -> Iterator[Record]:
    """All tables' records, one table after the other. Raises UserError where they can't be had."""
    number = 0
    for table in tables:
        for row in _rows(table):
            number += 1
            yield Record(place=f"{table.repository} record {number}", number=number, fields=row)


def _rows(table: HubTable) -> Iterator[dict[str, object]]:
    try:
        library = importlib.import_module("datasets")  # it takes a second, and only a download needs it
    except ImportError:
        raise NotHere(
            f"data.path is missing, and the library datasets, which downloads {table.repository}, can't be imported; "
            "wanted data.path or the extra headrace[train]"
        ) from None
    try:
        if table.files:
            files = [f"hf://datasets/{table.repository}/{file}" for file in table.files]
            found = library.load_dataset("json", data_files=files, split="train")
        else:
            found = library.load_dataset(table.repository, table.config, split=table.split)
    except Exception as error:  # of the library, of the hub, and of whatever they reach it by
        raise NotHere(
            f"data: can't download {table.repository}: {type(error).__name__}: {' '.join(str(error).split())[:200]}; "
            "wanted a network (and `hf auth login` where the data set asks for consent), or data.path"
        ) from error
    yield from found
