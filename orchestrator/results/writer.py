"""The results folder of a run: its writer and its reader. `orchestrator.results.folder` says what a shard survives."""

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.core.errors import UserError
from orchestrator.results.files import check_apart, make_table, read_parquet, write_parquet
from orchestrator.results.folder import ShardFolder, check_results_folder, shards
from orchestrator.results.rows import CANDIDATES_SCHEMA, PROBLEMS_SCHEMA, CandidateRow, ProblemRow, RowKey
from orchestrator.results.shards import ShardWriter


class ResultsWriter(ShardWriter):
    """Writes what a run finds. What ended in an error is taken out when it is resumed, and so tried again.

    with ResultsWriter.open(folder, run_yaml=..., versions=...) as results:
        results.add(problem_row, candidate_rows)
    """

    rows, companion, reports = "problems", "candidates", ("report.md", "compute_accuracy.png", "compute_accuracy.svg")

    def __init__(self, shard_folder: ShardFolder, *, flush_problems: int = 32, flush_seconds: float = 5.0) -> None:
        found = {path: _drop_errors(path, shard_folder.companion(path)) for path in shard_folder.shards()}
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
    values = attrgetter(*schema.names)
    return make_table((dict(zip(schema.names, values(row), strict=True)) for row in rows), schema)


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
