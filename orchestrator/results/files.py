"""Parquet files that appear whole or not at all, and whose pages carry checksums."""

import io
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.core.errors import UserError


def check_apart(found: Iterable[tuple[Path, Iterable[Hashable]]]) -> None:
    """Raises UserError where two shards hold rows of one key: each is written once."""
    seen: dict[Hashable, Path] = {}
    for path, keys in found:
        for key in keys:
            if seen.setdefault(key, path) != path:
                raise UserError(f"results: {path} holds {key}, and so does {seen[key]}; was a shard copied?")


def make_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A row that does not fit the schema fails here, alone, and not later in a flush with good ones."""
    rows = list(rows)
    return table_of([[row.get(name) for row in rows] for name in schema.names], schema)


def table_of(columns: Iterable[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Of the schema's columns, in its order. Raises as `make_table`."""
    arrays = []
    for field, values in zip(schema, columns, strict=True):
        array = pa.array(map(_storable, values) if _holds_text(field.type) else values, field.type)
        if not field.nullable and array.null_count:
            raise ValueError(f"results: {field.name} must not be None")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _holds_text(of: pa.DataType) -> bool:
    inside = pa.types.is_list(of) or pa.types.is_dictionary(of)
    return pa.types.is_string(of) or (inside and _holds_text(of.value_type))


def _storable(value: Any) -> Any:
    """Text with U+FFFD for half characters, which a model or a server may write and no file can hold."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        return [_storable(text) for text in value]
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """Nullable columns that an older version did not write are null. Raises UserError for an unreadable file, for one
    whose data fail their checksums and for another schema."""
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"results: can't read {path}: {error}") from error
    for field in schema:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if set(table.column_names) == set(schema.names):
        table = table.select(schema.names)
    if not table.schema.equals(schema):
        raise UserError(f"results: {path} was written by another version of headrace: its columns differ")
    return table


def write_parquet(path: Path, table: pa.Table) -> None:
    """The whole file or nothing. Raises OSError."""
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd", write_page_checksum=True)
    write_bytes(path, data.getvalue())


def write_bytes(path: Path, data: bytes) -> None:
    """The whole file or nothing, also across a power cut."""
    temp = path.with_name(f"{path.name}.tmp")
    try:
        write_synced(temp, data)
        os.replace(temp, path)
    except BaseException:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
        raise
    folder_fd = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def write_output(path: Path, data: bytes) -> None:
    """Where a user wants it: the whole file or nothing. What is no file, such as /dev/null, is written to as it is.
    Raises OSError."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write_bytes(path.resolve(), data)  # a link stays one


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to raise."""
    return UserError(f"results: can't write to {folder}: {error.strerror or error}")
