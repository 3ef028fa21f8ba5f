"""Result rows and the Parquet shards that hold them.

A shard is two files of one name: `candidates/NAME` is written first, `problems/NAME` last, and the latter
commits it. Each file appears whole or not at all. So a driver killed at any point loses what it had not flushed
and never leaves a row twice or half of one. A lock allows one writer per folder; anyone may read meanwhile.
"""

import errno
import fcntl
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from orchestrator.core.errors import UserError

RowKey = tuple[str, str, str, int]  # problem_id, strategy, params, seed: at most one row each


def _required(name: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, nullable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a problem and a candidate alike cost; names and meanings are `Ledger`'s."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    discarded_tokens: int
    speculative_tokens: int
    verifier_tokens: int
    reingested_tokens: int
    policy_flops: float
    verifier_flops: float
    queue_s: float
    engine_s: float


_COSTS = [_required(column.name, pa.int64() if column.type is int else pa.float64()) for column in fields(Costs)]

PROBLEMS_SCHEMA = pa.schema(
    [
        _required("run_id", pa.string()),
        _required("problem_id", pa.string()),
        pa.field("difficulty", pa.float64()),
        _required("strategy", pa.string()),
        _required("params", pa.string()),
        _required("label", pa.string()),
        pa.field("n", pa.int64()),
        _required("seed", pa.int64()),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),
        pa.field("score", pa.float64()),
        _required("status", pa.string()),
        pa.field("end_reason", pa.string()),
        pa.field("selection", pa.string()),
        pa.field("error", pa.string()),
        *_COSTS,
        _required("num_candidates", pa.int64()),
        _required("peak_state_bytes", pa.int64()),
        _required("verifier_s", pa.float64()),
        _required("wall_s", pa.float64()),
        _required("policy_model", pa.string()),
        pa.field("verifier_model", pa.string()),
        _required("version", pa.string()),
        _required("detail", pa.string()),
        _required("started_at", pa.timestamp("us", tz="UTC")),
        _required("finished_at", pa.timestamp("us", tz="UTC")),
    ]
)

CANDIDATES_SCHEMA = pa.schema(
    [
        _required("run_id", pa.string()),
        _required("problem_id", pa.string()),
        _required("strategy", pa.string()),
        _required("params", pa.string()),
        _required("label", pa.string()),
        _required("seed", pa.int64()),
        _required("candidate", pa.int32()),
        _required("token_ids", pa.list_(pa.int32())),
        _required("text", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),
        _required("chosen", pa.bool_()),
        _required("status", pa.string()),
        _required("step_scores", pa.list_(pa.float64())),
        _required("step_uncertainties", pa.list_(pa.float64())),
        _required("step_token_counts", pa.list_(pa.int32())),
        pa.field("aggregate_score", pa.float64()),
        *_COSTS,
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemRow(Costs):
    """One problem under one strategy and seed. Field names are the schema's."""

    run_id: str
    problem_id: str
    difficulty: float | None
    strategy: str
    params: str  # the strategy's fields, as `to_json` writes them
    label: str  # for tables and pictures: "best_of_n n=16"
    n: int | None
    seed: int
    answer: str | None
    correct: bool | None  # None: an error, or nothing to compare with
    score: float | None
    status: Literal["ok", "error"]
    end_reason: str | None
    selection: str | None  # by what the candidate was chosen: `Selection`
    error: str | None
    num_candidates: int
    peak_state_bytes: int
    verifier_s: float
    wall_s: float
    policy_model: str
    verifier_model: str | None
    version: str
    detail: str  # what the strategy decided, as `to_json` writes it
    started_at: datetime  # with its time zone
    finished_at: datetime  # with its time zone

    @property
    def key(self) -> RowKey:
        return (self.problem_id, self.strategy, self.params, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow(Costs):
    """One candidate of a problem row. Field names are the schema's; step lists have one entry per step.

    Its costs are those of its own path: candidates that share a prefix each count it, what was pruned or read of the
    prompt is in none, so only independent samples add up to their problem's row.
    """

    run_id: str
    problem_id: str
    strategy: str
    params: str
    label: str
    seed: int
    candidate: int
    token_ids: Sequence[int]  # of the completion
    text: str
    answer: str | None
    correct: bool | None
    chosen: bool
    status: str
    step_scores: Sequence[float | None]  # None: not scored
    step_uncertainties: Sequence[float | None]
    step_token_counts: Sequence[int]
    aggregate_score: float | None

    @property
    def key(self) -> RowKey:
        return (self.problem_id, self.strategy, self.params, self.seed)


def to_json(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys: equal values are equal strings."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


_RUN_YAML, _VERSIONS, _LOCK, _PROBE = "run.yaml", "versions.json", ".lock", ".probe.tmp"
_TEMP_FILES = (_PROBE, f"{_RUN_YAML}.tmp", f"{_VERSIONS}.tmp")
_REPORT_FILES = ("report.md", "compute_accuracy.png", "compute_accuracy.svg")
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Rows on their way to a shard. Replaced as a whole: Ctrl-C can't fall between rows and number."""

    shard: int
    rows: list[tuple[pa.Table, pa.Table]] = field(default_factory=list)  # (problem, its candidates)


class ResultsWriter:
    """Owns a results folder while a run writes to it. Not thread-safe.

    with ResultsWriter.open(folder, run_yaml=..., versions=...) as results:
        results.add(problem_row, candidate_rows)
    """

    def __init__(self, folder: Path, lock_fd: int, flush_problems: int, flush_seconds: float) -> None:
        self.folder = folder
        self._lock_fd: int | None = lock_fd
        self._flush_problems = flush_problems
        self._flush_seconds = flush_seconds
        self._buffer = _Buffer(0)
        self._num_candidates: dict[RowKey, int] = {}
        self._last_flush = time.monotonic()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        run_yaml: str,
        versions: Mapping[str, str],
        resume: bool = False,
        overwrite: bool = False,
        free_keys: Sequence[str] = (),
        flush_problems: int = 32,
        flush_seconds: float = 5.0,
    ) -> Self:
        """Locks the folder and makes it ready: new, continued (`resume`) or emptied of results (`overwrite`).

        `run_yaml` is the resolved configuration. `resume` wants it equal to the folder's own, except for
        the dotted `free_keys` and what is below them, which change no row; it drops orphan files and the rows
        that ended in an error, so that those problems are tried again. An empty folder or one of a run that
        saved no row counts as new. Foreign files are never touched. Raises UserError, leaving no new folder.
        """
        if resume and overwrite:
            raise UserError("results: resume and overwrite exclude each other, got both")
        wanted = _parse_config(run_yaml, "the configuration of this run")
        created, lock_fd = False, None
        try:
            created = _make_folder(folder)
            lock_fd = _lock(folder)
            _probe(folder)
            writer = cls(folder, lock_fd, flush_problems, flush_seconds)
            writer._prepare(run_yaml, wanted, versions, resume, overwrite, free_keys)
            return writer
        except BaseException as error:
            if created:
                _remove_new(folder, locked=lock_fd is not None)
            if lock_fd is not None:
                os.close(lock_fd)
            if isinstance(error, OSError):
                raise UserError(f"results: can't write to {folder}: {_reason(error)}") from error
            raise

    def done_keys(self) -> set[RowKey]:
        """Keys of the rows that need no more work: those found on resume and those added since."""
        return set(self._num_candidates)

    def num_candidates(self, key: RowKey) -> int:
        """How many candidates a row of `done_keys` cost."""
        return self._num_candidates[key]

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow]) -> None:
        """Buffers a finished problem; flushes when enough problems or seconds went by since the last."""
        if problem.key in self._num_candidates:
            raise ValueError(f"results: a row for {problem.key} was already written")
        if strays := [row.key for row in candidates if row.key != problem.key]:
            raise ValueError(f"results: wanted candidates of {problem.key}, got one of {strays[0]}")
        self._buffer.rows.append((_table([problem], PROBLEMS_SCHEMA), _table(candidates, CANDIDATES_SCHEMA)))
        self._num_candidates[problem.key] = problem.num_candidates
        late = time.monotonic() - self._last_flush >= self._flush_seconds
        if late or len(self._buffer.rows) >= self._flush_problems:
            self.flush()

    def flush(self) -> None:
        """Writes what is buffered as one shard. After a failure none of it is on disk, all still buffered."""
        self._last_flush = time.monotonic()
        if not self._buffer.rows:
            return
        problems, candidates = zip(*self._buffer.rows, strict=True)
        name = f"part-{self._buffer.shard:06d}.parquet"
        candidates_path, problems_path = self.folder / "candidates" / name, self.folder / "problems" / name
        try:
            _write_parquet(candidates_path, pa.concat_tables(candidates))
            _write_parquet(problems_path, pa.concat_tables(problems))
        except OSError as error:
            if not problems_path.exists():
                with suppress(OSError):
                    candidates_path.unlink(missing_ok=True)
            raise UserError(
                f"results: can't write to {self.folder}: {_reason(error)}; {len(problems)} finished problems "
                "are not saved, what was saved before is whole: free some space, then run with --resume"
            ) from error
        self._buffer = _Buffer(self._buffer.shard + 1)

    def close(self) -> None:
        """Flushes and lets go of the folder. Closing twice is allowed."""
        if self._lock_fd is None:
            return
        try:
            self.flush()
        finally:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(
        self,
        run_yaml: str,
        wanted: dict[str, Any],
        versions: Mapping[str, str],
        resume: bool,
        overwrite: bool,
        free_keys: Sequence[str],
    ) -> None:
        """Everything that `open` does under the lock."""
        config_path = self.folder / _RUN_YAML
        if config_path.exists() and resume:
            _check_same_run(self.folder, config_path, wanted, free_keys)
        elif _shards(self.folder, "problems") and not overwrite:
            raise UserError(
                f"results: {self.folder} already holds results; wanted --resume (to finish that run), "
                "--overwrite (to replace it) or another folder"
            )
        for name in _TEMP_FILES:
            (self.folder / name).unlink(missing_ok=True)
        for path in self.folder.glob("*/part-*.parquet.tmp"):
            path.unlink()
        if overwrite:
            for path in _shards(self.folder, "problems"):
                path.unlink()  # their candidates are now orphans
            for name in _REPORT_FILES:
                (self.folder / name).unlink(missing_ok=True)
        if not (config_path.exists() and resume):
            versions_json = json.dumps(dict(versions), indent=2, sort_keys=True) + "\n"
            _write_bytes(self.folder / _VERSIONS, versions_json.encode())
            _write_bytes(config_path, run_yaml.encode())  # last: it makes this a results folder
        for name in ("problems", "candidates"):
            (self.folder / name).mkdir(exist_ok=True)
        for path in _shards(self.folder, "problems"):
            self._num_candidates |= _drop_errors(path)
        committed = [path.name for path in _shards(self.folder, "problems")]
        for path in _shards(self.folder, "candidates"):
            if path.name not in committed:
                path.unlink()
        self._buffer = _Buffer(1 + int(Path(committed[-1]).stem.removeprefix("part-")) if committed else 0)


def read_results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All committed rows: (problems, candidates). Also while a run is writing them. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"results: {folder} is not a folder")
    if not _is_results(folder):
        raise UserError(f"results: {folder} is not a results folder (it has no {_RUN_YAML} and {_VERSIONS})")
    paths = _shards(folder, "problems")
    if not paths:
        raise UserError(f"results: {folder} holds no rows yet")
    problems = pa.concat_tables(_read_parquet(path, PROBLEMS_SCHEMA) for path in paths).to_pandas()
    candidates = pa.concat_tables(
        _read_parquet(folder / "candidates" / path.name, CANDIDATES_SCHEMA) for path in paths
    ).to_pandas()
    return problems.astype({"n": "Int64", "correct": "boolean"}), candidates.astype({"correct": "boolean"})


def _parse_config(text: str, what: str) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.create(text))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"results: {what} is not readable YAML: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"results: {what} must be a YAML mapping, got {type(config).__name__}")
    return {str(key): value for key, value in config.items()}


def _check_same_run(folder: Path, config_path: Path, wanted: dict[str, Any], free_keys: Sequence[str]) -> None:
    try:
        text = config_path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"results: {config_path} is not UTF-8: {error}") from error
    found_flat = dict(_flat(_parse_config(text, str(config_path))))
    wanted_flat = dict(_flat(wanted))
    differing = [
        f"{key} (there {found_flat.get(key, 'unset')!r}, now {wanted_flat.get(key, 'unset')!r})"
        for key in dict.fromkeys([*found_flat, *wanted_flat])
        if found_flat.get(key, _UNSET) != wanted_flat.get(key, _UNSET)
        and not any(key == free or key.startswith((f"{free}.", f"{free}[")) for free in free_keys)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"results: {folder} belongs to another run, which differs in {', '.join(differing[:3])}{more}; "
            "wanted the same configuration, another folder, or --overwrite"
        )


_UNSET = object()


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts and lists as (`a.b[0].c`, value)."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(config, list) and config:
        for index, value in enumerate(config):
            yield from _flat(value, f"{prefix}[{index}]")
    else:
        yield prefix, config


def _make_folder(folder: Path) -> bool:
    """Makes the folder, or checks that the one there is empty or holds results. Whether it was made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
        return True
    except FileExistsError:
        if not folder.is_dir():
            raise UserError(f"results: {folder} is a file, wanted a folder") from None
    own = {_LOCK, _VERSIONS, *_TEMP_FILES}  # what a run killed in its first moments leaves
    if not _is_results(folder) and not {path.name for path in folder.iterdir()} <= own:
        raise UserError(f"results: {folder} holds other files and no results; wanted a new or empty folder")
    return False


def _is_results(folder: Path) -> bool:
    return (folder / _RUN_YAML).exists() and (folder / _VERSIONS).exists()


def _lock(folder: Path) -> int:
    """An exclusive lock, which the kernel drops with the process. Removing its file would be a race."""
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise UserError(
                f"results: another run is writing to {folder}; wait for it or take another folder"
            ) from error
        raise
    return fd


def _probe(folder: Path) -> None:
    """Fails now, and not after an hour, where the disk is full or read-only."""
    try:
        _write_synced(folder / _PROBE, bytes(_PROBE_BYTES))
    finally:
        (folder / _PROBE).unlink(missing_ok=True)


def _remove_new(folder: Path, *, locked: bool) -> None:
    """Undoes the making of a folder. Without its lock, another run may be at work there: only when empty."""
    with suppress(OSError):
        if locked:
            for name in (_RUN_YAML, _VERSIONS, _LOCK, *_TEMP_FILES):
                (folder / name).unlink(missing_ok=True)
            for name in ("problems", "candidates"):
                if (folder / name).exists():
                    (folder / name).rmdir()
        folder.rmdir()


def _shards(folder: Path, sub: str) -> list[Path]:
    return sorted((folder / sub).glob("part-" + "[0-9]" * 6 + ".parquet"))


def _table(rows: Sequence[ProblemRow] | Sequence[CandidateRow], schema: pa.Schema) -> pa.Table:
    """A row that does not fit the schema fails here, alone, and not later in a flush with good ones."""
    values = [{f.name: getattr(row, f.name) for f in fields(row)} for row in rows]
    table = pa.Table.from_pylist(values, schema)
    for name in schema.names:
        if not schema.field(name).nullable and table[name].null_count:
            raise ValueError(f"results: {name} must not be None")
    return table


def _drop_errors(problems_path: Path) -> dict[RowKey, int]:
    """Takes the rows with an error out of a shard, candidates first; returns the others: key -> candidates.

    Killed between the two files, it leaves an error row without candidates, which the next resume takes out.
    """
    problems = _read_parquet(problems_path, PROBLEMS_SCHEMA)
    kept = problems.filter(pc.equal(problems["status"], "ok"))
    keys = dict(zip(_keys(kept), kept["num_candidates"].to_pylist(), strict=True))
    if kept.num_rows == problems.num_rows:
        return keys
    if not keys:
        problems_path.unlink()  # its candidates are now an orphan
        return keys
    candidates_path = problems_path.parent.parent / "candidates" / problems_path.name
    candidates = _read_parquet(candidates_path, CANDIDATES_SCHEMA)
    mask = pa.array([key in keys for key in _keys(candidates)], pa.bool_())
    _write_parquet(candidates_path, candidates.filter(mask))
    _write_parquet(problems_path, kept)
    return keys


def _keys(table: pa.Table) -> list[RowKey]:
    columns = [table[name].to_pylist() for name in ("problem_id", "strategy", "params", "seed")]
    return list(zip(*columns, strict=True))


def _read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"results: can't read {path}: {error}") from error
    if not table.schema.equals(schema):
        raise UserError(f"results: {path} was written by another version of headrace: its columns differ")
    return table


def _write_parquet(path: Path, table: pa.Table) -> None:
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    _write_bytes(path, data.getvalue())


def _write_bytes(path: Path, data: bytes) -> None:
    """The whole file or nothing, also across a power cut."""
    temp = path.with_name(f"{path.name}.tmp")
    try:
        _write_synced(temp, data)
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


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
