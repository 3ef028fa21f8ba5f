"""Result rows and the Parquet shards that hold them: `problems/NAME`, and `candidates/NAME` beside it.

`orchestrator.folders` says what a shard survives. A lock allows one writer per folder; anyone may read meanwhile.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.core.errors import UserError
from orchestrator.folders import (
    ShardFolder,
    check_apart,
    check_results_folder,
    make_table,
    read_parquet,
    shards,
    write_parquet,
)
from orchestrator.shard_writer import ShardWriter

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
        pa.field("undecided", pa.string()),
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
        pa.field("answer_group", pa.int32()),
        pa.field("correct", pa.bool_()),
        pa.field("undecided", pa.string()),
        _required("chosen", pa.bool_()),
        _required("status", pa.string()),
        _required("step_scores", pa.list_(pa.float64())),
        _required("step_uncertainties", pa.list_(pa.float64())),
        _required("step_token_counts", pa.list_(pa.int32())),
        pa.field("aggregate_score", pa.float64()),
        pa.field("unjudged", pa.string()),
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
    correct: bool | None  # None: an error, or undecided
    undecided: str | None  # why the grader could not decide
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
    answer_group: int | None  # equal numbers for equal answers of the row's candidates
    correct: bool | None  # None: undecided
    undecided: str | None  # why the grader could not decide
    chosen: bool
    status: str
    step_scores: Sequence[float | None]  # None: not scored
    step_uncertainties: Sequence[float | None]
    step_token_counts: Sequence[int]
    aggregate_score: float | None
    unjudged: str | None  # why the verifier gave it no score

    @property
    def key(self) -> RowKey:
        return (self.problem_id, self.strategy, self.params, self.seed)


def to_json(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys: equal values are equal strings."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


class ResultsWriter(ShardWriter):
    """Writes what a run finds. What ended in an error is taken out when it is resumed, and so tried again.

    with ResultsWriter.open(folder, run_yaml=..., versions=...) as results:
        results.add(problem_row, candidate_rows)
    """

    rows, beside, reports = "problems", "candidates", ("report.md", "compute_accuracy.png", "compute_accuracy.svg")

    def __init__(self, shard_folder: ShardFolder, *, flush_problems: int = 32, flush_seconds: float = 5.0) -> None:
        found = {path: _drop_errors(path, shard_folder.beside(path)) for path in shard_folder.shards()}
        check_apart(found.items())
        self._num_candidates = {key: count for rows in found.values() for key, count in rows.items()}
        shard_folder.drop_orphans()
        super().__init__(shard_folder, flush_seconds=flush_seconds, flush_problems=flush_problems)

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
        self._hold(_table([problem], PROBLEMS_SCHEMA), _table(candidates, CANDIDATES_SCHEMA))
        self._num_candidates[problem.key] = problem.num_candidates
        self._flush_when_due()


def read_results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All committed rows: (problems, candidates). Also while a run is writing them. Raises UserError."""
    check_results_folder(folder)
    paths = shards(folder, "problems")
    if not paths:
        raise UserError(f"results: {folder} holds no rows yet")
    read = [_read_shard(path, folder / "candidates" / path.name) for path in paths]
    check_apart((path, _keys(rows)) for path, (rows, _) in zip(paths, read, strict=True))
    problems, candidates = (pa.concat_tables(tables).to_pandas() for tables in zip(*read, strict=True))
    return problems.astype({"n": "Int64", "correct": "boolean"}), candidates.astype({"correct": "boolean"})


def _read_shard(problems_path: Path, candidates_path: Path) -> tuple[pa.Table, pa.Table]:
    """Raises UserError, also for candidates of a row that is not in the shard."""
    problems = read_parquet(problems_path, PROBLEMS_SCHEMA)
    candidates = read_parquet(candidates_path, CANDIDATES_SCHEMA)
    if strays := set(_keys(candidates)) - set(_keys(problems)):
        raise UserError(f"results: {candidates_path} holds candidates of {min(strays)}, which {problems_path} does not")
    return problems, candidates


def _table(rows: Sequence[ProblemRow] | Sequence[CandidateRow], schema: pa.Schema) -> pa.Table:
    return make_table(({f.name: getattr(row, f.name) for f in fields(row)} for row in rows), schema)


def _drop_errors(problems_path: Path, candidates_path: Path) -> dict[RowKey, int]:
    """Takes the rows with an error out of a shard, candidates first; returns the others: key -> candidates.

    Killed between the two files, it leaves an error row without candidates, which the next resume takes out.
    """
    problems = read_parquet(problems_path, PROBLEMS_SCHEMA)
    kept = problems.filter(pc.equal(problems["status"], "ok"))
    keys = dict(zip(_keys(kept), kept["num_candidates"].to_pylist(), strict=True))
    if kept.num_rows == problems.num_rows:
        return keys
    if not keys:
        problems_path.unlink()  # its candidates are now an orphan
        return keys
    candidates = read_parquet(candidates_path, CANDIDATES_SCHEMA)
    mask = pa.array([key in keys for key in _keys(candidates)], pa.bool_())
    write_parquet(candidates_path, candidates.filter(mask))
    write_parquet(problems_path, kept)
    return keys


def _keys(table: pa.Table) -> list[RowKey]:
    columns = [table[name].to_pylist() for name in ("problem_id", "strategy", "params", "seed")]
    return list(zip(*columns, strict=True))
