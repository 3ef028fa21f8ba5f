"""Records of a file: JSON Lines, JSON, CSV or Parquet. A record that can't be read is one with an error."""

import csv
import io
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.data import records
from orchestrator.core.errors import NotHere, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. `error` says what is wrong with it; then it has no fields."""

    place: str  # for messages
    number: int  # of its line in JSON Lines, of itself elsewhere; from 1
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def file_records(path: str, format: str | None = None) -> Iterator[Record]:
    """Records in their order. `format` is a key of `FORMATS`; None: by the ending of the name, else JSON Lines.

    Raises UserError for a file that can't be read as a whole.
    """
    if format is None:
        ending = Path(path).suffix.removeprefix(".").lower()
        format = ending if ending in FORMATS else "jsonl"
    return FORMATS[format](path)


def _json_lines(path: str) -> Iterator[Record]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield _checked(f"{path} line {number}", number, partial(records.parse, line))
    except OSError as error:
        raise NotHere(f"data: can't read {path}: {error.strerror}") from None


def _json(path: str) -> Iterator[Record]:
    try:
        found = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"data: {path} is not JSON: {error}; JSON Lines is name: jsonl, or a file .jsonl") from None
    if not isinstance(found, list):
        raise UserError(f"data: {path} must be a JSON list of records, got {type(found).__name__}")
    for number, record in enumerate(found, start=1):
        yield _checked(f"{path} record {number}", number, partial(records.checked, record))


def _csv(path: str) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            place = f"{path} record {number}"
            if None in row:
                yield Record(place=place, number=number, error="has more fields than the first line names")
            else:
                yield Record(place=place, number=number, fields=row)
    except csv.Error as error:
        raise UserError(f"data: {path} is not CSV: line {reader.line_num}: {error}") from None


def _parquet(path: str) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield Record(place=f"{path} row {number}", number=number, fields=row)
    except OSError as error:
        raise NotHere(f"data: can't read {path}: {error.strerror or error}") from None
    except pa.ArrowException as error:
        raise UserError(f"data: {path} is not Parquet: {error}") from None


FORMATS: dict[str, Callable[[str], Iterator[Record]]] = {
    "jsonl": _json_lines,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}


def _checked(place: str, number: int, read: Callable[[], Mapping[str, Any]]) -> Record:
    try:
        return Record(place=place, number=number, fields=read())
    except ValueError as error:
        return Record(place=place, number=number, error=str(error))


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise NotHere(f"data: can't read {path}: {error.strerror}") from None


def _text(path: str) -> str:
    try:
        return _content(path).removeprefix(BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 (byte {error.start}: {error.reason})") from None
