"""The results folder of a run: its writer and its reader. `orchestrator.results.folder` says what a shard survives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.core.errors import UserError
from orchestrator.results.files import check_apart, read_parquet, table_of, write_parquet
from orchestrator.results.folder import ShardFolder, check_results_folder, shards
from orchestrator.results.rows import (
    CANDIDATES_SCHEMA,
    PROBLEMS_SCHEMA,
    TREES_SCHEMA,
    CandidateRow,
    NodeRow,
    ProblemRow,
    RowKey,
)
from orchestrator.results.shards import ShardWriter


class ResultsWriter(ShardWriter):
    """Writes what a run finds. What ended in an error is taken out when it is resumed, and so tried again.

    with ResultsWriter.open(folder, run_yaml=..., versions=...) as results:
        results.add(problem_row, candidate_rows)
    """

    rows, companions = "problems", ("candidates", "trees")
    reports = ("report.md", "report.html", "together.html", "compute_accuracy.png", "compute_accuracy.svg")

    def __init__(
        self,
        shard_folder: ShardFolder,
        *,
        flush_problems: int = 32,
        flush_seconds: float = 5.0,
        max_tree_bytes: int | None = None,
    ) -> None:
        """`max_tree_bytes`: of the files of all search trees; a tree that has no room is left out; None: no cap."""
        found = {path: _drop_errors(path, shard_folder.companions(path)) for path in shard_folder.shards()}
        check_apart((path, shard.num_candidates) for path, shard in found.items())
        self._num_candidates = {key: count for shard in found.values() for key, count in shard.num_candidates.items()}
        self._max_tree_bytes = max_tree_bytes
        self._tree_bytes = sum(shard.tree_bytes for shard in found.values())  # on disk
        self._buffered_tree_bytes = 0  # uncompressed
        self._num_left_out = sum(shard.num_left_out for shard in found.values())
        shard_folder.drop_orphans()
        super().__init__(shard_folder, flush_seconds=flush_seconds, flush_problems=flush_problems)

    @property
    def num_trees_left_out(self) -> int:
        """Searches whose trees had no room, of this process and of those before it."""
        return self._num_left_out

    def done_keys(self) -> set[RowKey]:
        """Keys of the rows that need no more work: those found on resume and those added since."""
        return set(self._num_candidates)

    def num_candidates(self, key: RowKey) -> int:
        """How many candidates a row of `done_keys` cost."""
        return self._num_candidates[key]

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow], tree: pa.Table | None = None) -> None:
        """Buffers a finished problem; flushes when enough problems or seconds went by since the last.

        `tree`: as `tree_table` makes it; None: nobody asked for it.
        """
        if problem.key in self._num_candidates:
            raise ValueError(f"results: a row for {problem.key} was already written")
        if strays := [row.key for row in candidates if row.key != problem.key]:
            raise ValueError(f"results: wanted candidates of {problem.key}, got one of {strays[0]}")
        if tree is not None:
            problem, tree = self._with_room(problem, tree)
        self._hold(
            _table([problem], PROBLEMS_SCHEMA),
            _table(candidates, CANDIDATES_SCHEMA),
            TREES_SCHEMA.empty_table() if tree is None else tree,
        )
        self._num_candidates[problem.key] = problem.num_candidates
        self._flush_when_due()

    def _with_room(self, problem: ProblemRow, tree: pa.Table) -> tuple[ProblemRow, pa.Table | None]:
        """The tree where there is room for it. Until it is on disk it counts as it is in memory, which is more."""
        with self._lock:
            taken = self._tree_bytes + self._buffered_tree_bytes + tree.nbytes
            if self._max_tree_bytes is not None and taken > self._max_tree_bytes:
                self._num_left_out += 1
                return replace(problem, tree="over_budget"), None
            self._buffered_tree_bytes += tree.nbytes
            return replace(problem, tree="kept"), tree

    def _on_shard(self, sizes: Sequence[int]) -> None:
        self._tree_bytes += sizes[self.companions.index("trees")]
        self._buffered_tree_bytes = 0


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


def read_problems(folder: Path) -> pd.DataFrame:
    """The first of the two alone. A folder without rows, or that is not there, gives none. Raises UserError."""
    tables = [read_parquet(path, PROBLEMS_SCHEMA) for path in shards(folder, "problems")]
    found: pd.DataFrame = pa.concat_tables([PROBLEMS_SCHEMA.empty_table(), *tables]).to_pandas()
    return found.astype({"n": "Int64", "correct": "boolean"})


def _read_shard(problems_path: Path, candidates_path: Path) -> tuple[pa.Table, pa.Table]:
    """Raises UserError, also for candidates of a row that is not in the shard."""
    problems = read_parquet(problems_path, PROBLEMS_SCHEMA)
    candidates = read_parquet(candidates_path, CANDIDATES_SCHEMA)
    if strays := set(_keys(candidates)) - set(_keys(problems)):
        raise UserError(f"results: {candidates_path} holds candidates of {min(strays)}, which {problems_path} does not")
    return problems, candidates


def read_trees(folder: Path, *, problem_id: str | Collection[str] | None = None) -> pd.DataFrame:
    """The nodes of all committed search trees, or of one problem or several. A folder that has none gives no rows.
    Also while a run is writing. Raises UserError."""
    check_results_folder(folder)
    tables = [TREES_SCHEMA.empty_table()]
    wanted = pa.array([problem_id] if isinstance(problem_id, str) else list(problem_id or ()), pa.string())
    for rows in shards(folder, "problems"):
        path = folder / "trees" / rows.name
        if path.exists():  # an older version wrote none
            table = read_parquet(path, TREES_SCHEMA)
            tables.append(table if problem_id is None else table.filter(pc.is_in(table["problem_id"], wanted)))
    found: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    return found.astype({"parent": "Int32", "step": "Int32"})


def tree_table(nodes: Sequence[NodeRow]) -> pa.Table:
    """The nodes of one search as the columns of `trees/`."""
    return _table(nodes, TREES_SCHEMA)


def _table(rows: Sequence[ProblemRow] | Sequence[CandidateRow] | Sequence[NodeRow], schema: pa.Schema) -> pa.Table:
    columns = zip(*map(attrgetter(*schema.names), rows), strict=True) if rows else [()] * len(schema.names)
    return table_of(columns, schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a resumed shard holds that needs no more work."""

    num_candidates: Mapping[RowKey, int]
    tree_bytes: int
    num_left_out: int


def _drop_errors(problems_path: Path, companions: Sequence[Path]) -> _Found:
    """Takes the rows with an error out of a shard, and what lies beside them first.

    Killed between the files, it leaves an error row without candidates, which the next resume takes out.
    """
    problems = read_parquet(problems_path, PROBLEMS_SCHEMA)
    kept = problems.filter(pc.equal(problems["status"], "ok"))
    keys = dict(zip(_keys(kept), kept["num_candidates"].to_pylist(), strict=True))
    candidates_path, trees_path = companions
    if kept.num_rows < problems.num_rows:
        if keys:
            _keep(candidates_path, CANDIDATES_SCHEMA, keys)
            if trees_path.exists():
                _keep(trees_path, TREES_SCHEMA, keys)
            write_parquet(problems_path, kept)
        else:
            problems_path.unlink()  # what lies beside it is now an orphan
    return _Found(
        num_candidates=keys,
        tree_bytes=trees_path.stat().st_size if keys and trees_path.exists() else 0,
        num_left_out=pc.sum(pc.equal(kept["tree"], "over_budget")).as_py() or 0,
    )


def _keep(path: Path, schema: pa.Schema, keys: Mapping[RowKey, int]) -> None:
    """Rewrites the rows of these keys alone."""
    table = read_parquet(path, schema)
    write_parquet(path, table.filter(pa.array([key in keys for key in _keys(table)], pa.bool_())))


def _keys(table: pa.Table) -> list[RowKey]:
    columns = [table[name].to_pylist() for name in ("problem_id", "strategy", "params", "seed")]
    return list(zip(*columns, strict=True))
