"""Search trees in Parquet: made of what happens, bounded, read by others, and absent from older folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.core.search_events import AnswerChosen, Forked, Pruned, SearchEvent, StepScored, StepWritten
from orchestrator.results import TREES_SCHEMA, NodeRow, ResultsWriter, read_results, read_trees, tree_table
from orchestrator.results.trees import TreeRecorder
from tests.orchestrator.results.test_results import BEFORE, CONFIG, candidate_rows, failed_row, problem_row

KEYS: dict[str, Any] = {
    "run_id": "run",
    "problem_id": "p0",
    "strategy": "best_of_n",
    "params": problem_row("p0").params,
    "label": "best_of_n n=2",
    "seed": 0,
}


def wrote(path: tuple[int, ...], index: int, text: str, *, finished: bool = False, at: float = 0.0) -> StepWritten:
    parent = path[:-1] if path else None
    return StepWritten(at=at, path=path, index=index, parent=parent, text=text, tokens=2, finished=finished)


def judged(path: tuple[int, ...], index: int, score: float) -> StepScored:
    return StepScored(at=0.0, path=path, index=index, score=score, uncertainty=0.1)


BEAM: list[SearchEvent] = [
    Forked(at=0.0, path=(), children=((0,), (1,), (2,))),
    wrote((0,), 0, "a"),
    wrote((1,), 0, "b", at=0.5),
    wrote((2,), 0, "c"),
    judged((1,), 0, 0.9),
    Pruned(at=0.1, path=(2,)),
    wrote((1, 0), 1, "d"),
    wrote((0, 0), 1, "e"),
    Pruned(at=0.2, path=(0, 0)),
    wrote((1, 0), 2, "f", finished=True),
    AnswerChosen(at=0.3, path=(1, 0), answer="7", score=0.9, end_reason="completed"),
]


def rows_of(search_events: list[SearchEvent], **keys: Any) -> list[NodeRow]:
    recorder = TreeRecorder()
    for event in search_events:
        recorder(event)
    return recorder.rows("How many?", {**KEYS, **keys})


def test_a_step_follows_the_step_before_it_on_its_own_path_or_on_the_one_that_it_forks_from() -> None:
    rows = rows_of(BEAM)
    text = {row.node: row.text for row in rows}
    before = {row.text: None if row.parent is None else text[row.parent] for row in rows}
    assert before == {
        "How many?": None,
        "a": "How many?",
        "b": "How many?",
        "c": "How many?",
        "d": "b",
        "e": "a",
        "f": "d",
    }
    assert [(row.path, row.step) for row in rows][:2] == [((), None), ((0,), 0)]


def test_a_prefix_is_pruned_when_nothing_that_follows_it_was_kept() -> None:
    rows = rows_of(BEAM)
    assert [row.text for row in rows if row.pruned] == ["a", "c", "e"]
    assert [row.text for row in rows if row.chosen] == ["How many?", "b", "d", "f"]
    assert [row.text for row in rows if row.finished] == ["f"]


def test_a_node_holds_its_verdict_and_when_it_was_written() -> None:
    by_text = {row.text: row for row in rows_of(BEAM)}
    assert (by_text["b"].score, by_text["b"].uncertainty, by_text["b"].at_s) == (0.9, 0.1, 0.5)
    assert by_text["a"].score is None


def test_a_step_that_is_told_again_stands_in_place_of_the_first() -> None:
    rows = rows_of([wrote((0,), 0, "a"), wrote((0,), 0, "A", finished=True)])
    assert [(row.text, row.finished) for row in rows[1:]] == [("A", True)]


def writer(folder: Path, **settings: Any) -> ResultsWriter:
    return ResultsWriter.open(folder, run_yaml=CONFIG, versions={}, **settings)


def tree(name: str) -> Any:
    return tree_table(rows_of(BEAM, problem_id=name))


def test_trees_are_read_back_as_they_were_written_all_of_them_or_one_problems(tmp_path: Path) -> None:
    with writer(tmp_path) as results:
        for name in ("p0", "p1"):
            results.add(problem_row(name), candidate_rows(name), tree(name))
            results.flush()
    frame = read_trees(tmp_path)
    assert len(frame) == 2 * len(rows_of(BEAM)) and list(frame.columns) == TREES_SCHEMA.names
    one = read_trees(tmp_path, problem_id="p1")
    assert (
        len(read_trees(tmp_path, problem_id={"p0", "p1"})) == len(frame) and read_trees(tmp_path, problem_id=()).empty
    )
    for name in TREES_SCHEMA.names:
        wanted = [getattr(row, name) for row in rows_of(BEAM, problem_id="p1")]
        found = [
            None if name in ("parent", "step", "score", "uncertainty") and value != value else value
            for value in one[name].astype(object).where(one[name].notna(), None)
        ]
        assert [tuple(value) if name == "path" else value for value in found] == wanted, name
    assert set(read_results(tmp_path)[0]["tree"]) == {"kept"}


def test_keys_are_dictionary_encoded_and_the_files_say_their_version(tmp_path: Path) -> None:
    with writer(tmp_path) as results:
        results.add(problem_row("p0"), candidate_rows("p0"), tree("p0"))
    [path] = (tmp_path / "trees").glob("*.parquet")
    file = pq.ParquetFile(path)
    assert file.schema_arrow.metadata[b"headrace.trees"] == b"1"
    columns = [file.metadata.row_group(0).column(index) for index in range(file.metadata.num_columns)]
    encodings = {column.path_in_schema: column.encodings for column in columns}
    for name in ("run_id", "problem_id", "strategy", "params", "label", "text"):
        assert "RLE_DICTIONARY" in encodings[name], name


def test_a_tree_that_has_no_room_is_left_out_and_its_row_says_so(tmp_path: Path) -> None:
    room = int(1.5 * tree("p0").nbytes)
    with writer(tmp_path, max_tree_bytes=room) as results:
        results.add(problem_row("p0"), candidate_rows("p0"), tree("p0"))
        results.add(problem_row("p1"), candidate_rows("p1"), tree("p1"))
        assert results.num_trees_left_out == 1
    problems, candidates = read_results(tmp_path)
    assert dict(zip(problems["problem_id"], problems["tree"], strict=True)) == {"p0": "kept", "p1": "over_budget"}
    assert set(read_trees(tmp_path)["problem_id"]) == {"p0"} and len(candidates) == 4
    on_disk = sum(path.stat().st_size for path in (tmp_path / "trees").iterdir())
    with writer(tmp_path, resume=True, max_tree_bytes=on_disk + tree("p2").nbytes) as results:
        assert results.num_trees_left_out == 1, "a resumed run still tells of what was left out before"
        results.add(problem_row("p2"), candidate_rows("p2"), tree("p2"))
        results.add(problem_row("p3"), candidate_rows("p3"), tree("p3"))
        assert results.num_trees_left_out == 2, "what is on disk counts"


def test_the_tree_of_a_search_that_failed_is_kept_until_it_is_tried_again(tmp_path: Path) -> None:
    with writer(tmp_path) as results:
        results.add(failed_row("p0"), [], tree("p0"))
        results.add(problem_row("p1"), candidate_rows("p1"), tree("p1"))
    assert set(read_trees(tmp_path)["problem_id"]) == {"p0", "p1"}
    with writer(tmp_path, resume=True) as results:
        assert set(read_trees(tmp_path)["problem_id"]) == {"p1"}
        results.add(replace(problem_row("p0"), answer="8"), candidate_rows("p0"), tree("p0"))
    assert len(read_trees(tmp_path, problem_id="p0")) == len(rows_of(BEAM))


def test_a_folder_without_trees_is_read_and_gives_none() -> None:
    frame = read_trees(BEFORE)
    assert len(frame) == 0 and list(frame.columns) == TREES_SCHEMA.names
    assert read_results(BEFORE)[0]["tree"].isna().all()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    with writer(tmp_path) as results:
        results.add(problem_row("p0"), candidate_rows("p0"), tree("p0"))
        results.add(problem_row("p1"), candidate_rows("p1"), tree("p1"))
    return tmp_path


def test_polars_reads_trees(run_folder: Path) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.read_parquet(run_folder / "trees" / "*.parquet")
    pruned = frame.filter(polars.col("pruned") & (polars.col("problem_id") == "p0"))
    assert sorted(pruned["text"]) == ["a", "c", "e"]
    assert frame.filter(polars.col("text") == "f")["path"].to_list() == [[1, 0], [1, 0]]


def test_duckdb_reads_trees_and_walks_them(run_folder: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    [(text,)] = duckdb.sql(
        f"""with recursive up(node, parent, text) as (
              select node, parent, text from '{run_folder}/trees/*.parquet' where problem_id = 'p0' and text = 'f'
              union all
              select t.node, t.parent, t.text || up.text
              from '{run_folder}/trees/*.parquet' t join up on t.node = up.parent
              where t.problem_id = 'p0' and t.step is not null
            ) select text from up order by length(text) desc limit 1"""
    ).fetchall()
    assert text == "bdf"
