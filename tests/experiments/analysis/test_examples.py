"""Which problems a report shows, and what of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.analysis import examples
from experiments.analysis.examples import Branch, tree_of, worst_and_best
from orchestrator.results import ResultsWriter, read_results, read_trees, tree_table
from tests.experiments.synthetic import RUN_YAML, problem_row, sample_rows, write_error, write_run
from tests.orchestrator.results.test_results import BEFORE
from tests.orchestrator.results.test_trees import BEAM, rows_of


def names(folder: Path) -> tuple[list[str], list[str]]:
    worst, best = worst_and_best(folder, *read_results(folder))
    return [one.problem for one in worst], [one.problem for one in best]


def texts(branch: Branch) -> tuple[list[str], list[object]]:
    return [f"{step.text} {step.state}" for step in branch.steps], [texts(child) for child in branch.children]


def test_the_worst_are_wrong_and_sure_and_the_best_are_found_among_many_wrong_ones(tmp_path: Path) -> None:
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        for name, correct, score, right in (
            ("unsure", False, 0.1, 4), ("sure", False, 0.9, 4), ("easy", True, 0.9, 7), ("hard", True, 0.9, 1),
        ):  # fmt: skip
            row = problem_row(name, "best_of_n", 8, 0, correct=correct, score=score, num_candidates=8)
            results.add(row, sample_rows(name, right, 0, True, False))
    assert names(tmp_path) == (["sure", "unsure"], ["hard", "easy"])


def test_no_problem_is_both_and_one_that_all_solve_is_never_among_the_worst(tmp_path: Path) -> None:
    write_run(tmp_path)
    worst, best = names(tmp_path)
    assert len(worst) == len(best) == 5 and not set(worst) & set(best)
    assert worst[0] == "p0" and "broken" not in worst  # an error says nothing of the problem
    with ResultsWriter.open(tmp_path / "solved", run_yaml=RUN_YAML, versions={}) as results:
        results.add(problem_row("p0", "greedy", None, 0, correct=True), [])
    assert names(tmp_path / "solved") == ([], ["p0"])


def test_candidates_begin_with_the_chosen_one_and_show_right_and_wrong_ones(tmp_path: Path) -> None:
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        samples = [replace(row, chosen=row.candidate == 7) for row in sample_rows("p0", 4, 0, True, False)]
        results.add(problem_row("p0", "best_of_n", 8, 0, correct=False, num_candidates=8), samples)
    [search] = worst_and_best(tmp_path, *read_results(tmp_path))[0][0].searches
    assert (search.num_candidates, search.num_right) == (8, 4)
    assert [(one.number, one.chosen) for one in search.candidates if one.chosen] == [(7, True)]
    assert search.candidates[0].chosen
    assert {one.correct for one in search.candidates[1:]} == {True, False}


def test_a_long_text_is_cut_and_says_how_much_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "LONGEST_TEXT", 10)
    write_run(tmp_path)
    example = worst_and_best(tmp_path, *read_results(tmp_path))[0][0]
    [first, *_] = next(search for search in example.searches if search.candidates).candidates
    assert first.text == "so many\n\nA" and first.left_out == len("so many\n\nAnswer: 8") - 10


def test_a_tree_is_branches_of_steps_that_fork_where_the_search_did(tmp_path: Path) -> None:
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        results.add(problem_row("p0", "best_of_n", 2, 0, correct=True), [], tree_table(rows_of(BEAM)))
    assert texts(tree_of(read_trees(tmp_path))) == (
        [],
        [
            (["a pruned", "e pruned"], []),
            (["b chosen", "d chosen", "f chosen"], []),
            (["c pruned"], []),
        ],
    )


def test_trees_that_are_not_there_or_too_large_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MOST_NODES", 3)
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        row = problem_row("p0", "best_of_n", 2, 0, correct=False)
        keys = {"params": row.params, "label": row.label}
        results.add(row, [], tree_table(rows_of(BEAM, **keys)))
        results.add(replace(row, seed=1, tree="over_budget"), [])
        results.add(replace(row, seed=2), [])
    [example] = worst_and_best(tmp_path, *read_results(tmp_path))[0]
    assert example.question == "How many?"
    assert [(search.tree, search.tree_note) for search in example.searches] == [
        (None, "Its tree has 7 steps, more than this page takes"),
        (None, "Its tree had no room (trees.max_bytes)"),
        (None, "No tree was kept"),
    ]


def test_a_run_of_errors_alone_and_one_of_an_older_version_are_shown_too(tmp_path: Path) -> None:
    write_error(tmp_path)
    assert names(tmp_path) == ([], [])
    worst, best = worst_and_best(BEFORE, *read_results(BEFORE))
    [example] = [*worst, *best]
    assert example.question is None and example.searches[0].candidates
