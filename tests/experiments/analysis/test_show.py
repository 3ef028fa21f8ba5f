"""`headrace show`: a problem's search trees as a file and in the terminal."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.analysis.show import kept_searches, page_file, page_of, text_of, write_page
from orchestrator.core.errors import UserError
from orchestrator.results import ResultsWriter, tree_table
from tests.orchestrator.results.test_results import BEFORE, CONFIG, candidate_rows, failed_row, problem_row
from tests.orchestrator.results.test_trees import BEAM, rows_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Problem p0 under two seeds, and p1 whose tree found no room."""
    folder = tmp_path / "run"
    with ResultsWriter.open(folder, run_yaml=CONFIG, versions={}) as results:
        for seed in (0, 1):
            candidates = [replace(row, seed=seed) for row in candidate_rows("p0")]
            results.add(problem_row("p0", seed=seed), candidates, tree_table(rows_of(BEAM, seed=seed)))
        results.add(problem_row("p1", tree="over_budget"), candidate_rows("p1"))
    return folder


def trace_in(page: str) -> Any:
    [told] = re.findall(r'<script type="application/json" id="trace">(.*?)</script>', page)
    return json.loads(told, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_page_holds_every_search_of_the_problem_and_each_node_of_its_tree(run: Path) -> None:
    trace = trace_in(page_of(kept_searches(run, "p0", None, None), "run: p0"))
    assert [search["name"] for search in trace["searches"]] == ["best_of_n n=2, seed 0", "best_of_n n=2, seed 1"]
    events = trace["searches"][0]["events"]
    steps = [(event["path"], event["index"], event["text"]) for event in events if event["type"] == "step"]
    assert ([1, 0], 2, "f") in steps and len(steps) == 6
    assert [event["path"] for event in events if event["type"] == "prune"] == [[2], [0, 0]]
    assert events[-1] == {
        "type": "answer", "path": [1, 0], "answer": "7", "score": 0.9, "end_reason": "completed", "at": 0.5,
    }  # fmt: skip
    [vote] = [event for event in events if event["type"] == "vote"]
    assert vote["answers"] == [{"answer": "7", "weight": 2, "count": 2}]


def test_a_search_without_an_answer_is_shown_as_that(tmp_path: Path) -> None:
    """In a table that other rows fill: what is missing there is no number."""
    with ResultsWriter.open(tmp_path / "run", run_yaml=CONFIG, versions={}) as results:
        results.add(failed_row("p0"), [], tree_table(rows_of(BEAM[:3])))
        results.add(problem_row("p0", seed=1, answer=None, score=None), [], tree_table(rows_of(BEAM, seed=1)))
    failed, unanswered = trace_in(page_of(kept_searches(tmp_path / "run", "p0", None, None), "p0"))["searches"]
    assert failed["error"] == "no room" and "answer" not in [event["type"] for event in failed["events"][:-1]]
    assert (unanswered["error"], unanswered["events"][-1]["answer"], unanswered["events"][-1]["score"]) == (None,) * 3


def test_a_strategy_is_chosen_by_its_name_or_label_and_a_seed_by_its_number(run: Path) -> None:
    for strategy in ("best_of_n", "best_of_n n=2"):
        assert len(kept_searches(run, "p0", strategy, None)) == 2
    assert [search.row.seed for search in kept_searches(run, "p0", None, 1)] == [1]


@pytest.mark.parametrize(
    ("problem", "strategy", "why"),
    [
        ("p9", None, "has no problem 'p9'"),
        ("p0", "greedy", "its own are best_of_n n=2"),
        ("p1", None, "trees.max_bytes had no room for it"),
    ],
)
def test_what_can_not_be_shown_is_refused_with_the_reason(
    run: Path, problem: str, strategy: str | None, why: str
) -> None:
    with pytest.raises(UserError, match=re.escape(why)):
        kept_searches(run, problem, strategy, None)


def test_a_run_of_an_older_version_has_no_trees_to_show() -> None:
    with pytest.raises(UserError, match="the run kept no trees"):
        kept_searches(BEFORE, "p0", None, None)


def test_the_terminal_shows_forks_as_branches_and_what_became_of_them(run: Path) -> None:
    console = Console(width=80, record=True, color_system=None)
    console.print(text_of(kept_searches(run, "p0", None, 0)[0]))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines == [
        "best_of_n n=2, seed 0",
        "How many?",
        "├── ✗   –         a",
        "│   ✗   –         e",
        "├── ★ 0.90 ±0.10  b",
        "│   ★   –         d",
        "│   ★   –         f",
        "├── ✗   –         c",
        "└── answer: 7",
    ]


def test_a_page_lies_beside_the_results_under_a_plain_name_of_its_own(run: Path) -> None:
    names = {page_file(run, problem) for problem in ("a/b", "a_b", "../x", "a b")}
    assert len(names) == 4 and all(name.parent == run / "pages" for name in names)
    path = page_file(run, "../x")
    write_page(kept_searches(run, "p0", None, None), "run: p0", path)
    assert path.read_text().startswith("<!doctype html>")
    with pytest.raises(UserError, match="can't write"):
        write_page(kept_searches(run, "p0", None, None), "run: p0", run / "run.yaml" / "x.html")
