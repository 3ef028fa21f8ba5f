import io
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from experiments.analysis.compare import RunComparison, compare
from experiments.analysis.compare_table import show_comparison
from experiments.analysis.difficulty import Difficulty
from experiments.analysis.frontier import Cost
from experiments.analysis.intervals import Over
from experiments.analysis.paired import difference_interval, holm, mcnemar_exact, sign_flip_test
from orchestrator.core.errors import UserError
from orchestrator.results import ResultsWriter
from tests.experiments.synthetic import problem_row, write_run

IDS = [f"p{i}" for i in range(12)]


def write(
    folder: Path,
    solved: Mapping[str, Mapping[int, set[str]]],
    *,
    ids: list[str] = IDS,
    n: int | None = None,
    run_yaml: str = "name: x\nseeds: [0]\ndata: {name: tinymath, split: test}\n",
    **changes: object,
) -> Path:
    """Rows of strategy -> seed -> the problems that it solves. `changes` replace fields of every row."""
    with ResultsWriter.open(folder, run_yaml=run_yaml, versions={"headrace": "0"}) as results:
        for strategy, by_seed in solved.items():
            for seed, right in by_seed.items():
                for problem in ids:
                    results.add(problem_row(problem, strategy, n, seed, correct=problem in right, **changes), [])
    return folder


def shown(found: RunComparison, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    show_comparison(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_strategy_is_compared_on_its_pairs(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"greedy": {0: set(IDS[:6])}, "dvts": {0: set(IDS[:3])}})
    second = write(
        tmp_path / "b", {"greedy": {0: set(IDS[1:9])}, "dvts": {0: set(IDS[:3])}}, generated_tokens=100, wall_s=0.5
    )
    found = compare(first, second)
    greedy, dvts = found.strategies
    assert (greedy.label, dvts.label, greedy.quintile) == ("greedy", "dvts", None)
    comparison = greedy.comparison
    assert (comparison.theirs.value, comparison.ours.value) == (0.5, 8 / 12)
    assert (comparison.better, comparison.worse) == (3, 1)
    assert comparison.difference == difference_interval([1.0] * 3 + [-1.0] + [0.0] * 8)
    assert comparison.difference.over is Over.BOTH
    assert comparison.p_value == mcnemar_exact(3, 1)
    assert [row.adjusted_p for row in found.strategies] == holm([mcnemar_exact(3, 1), 1.0])
    assert greedy.ratios == {Cost.TOKENS: 2.0, Cost.FLOPS: 1.0, Cost.SECONDS: 2.0}, "FLOPs are as the rows say"
    assert found.differences == found.notes == []


def test_a_run_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=(0, 1))
    found = compare(tmp_path, tmp_path)
    assert [row.label for row in found.strategies] == ["best_of_n n=8", "greedy", "beam_search n=4"]
    for row in (*found.strategies, *found.quintiles):
        assert row.comparison.difference.value == 0 and row.adjusted_p == 1.0
        assert row.comparison.difference.low < 0 < row.comparison.difference.high
        assert set(row.ratios.values()) == {1.0}
    assert "Their settings are equal." in shown(found)


def test_rows_are_paired_by_seed_and_by_means_where_no_seed_is_shared(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"greedy": {0: set(IDS), 1: set()}})
    second = write(tmp_path / "b", {"greedy": {1: set(IDS), 2: set()}})
    third = write(tmp_path / "c", {"greedy": {5: set(IDS), 6: set(IDS)}})
    shared = compare(first, second)
    assert shared.strategies[0].comparison.difference.value == 1.0, "under seed 1 alone"
    assert shared.notes == ["greedy: compared under the seeds that both have: 1"]
    apart = compare(first, third)
    assert apart.strategies[0].comparison.difference.value == 0.5
    assert apart.strategies[0].comparison.p_value == sign_flip_test([0.5] * 12)
    assert "no seed in common (first 0, 1, second 5, 6), so problems are paired by their means" in apart.notes[0]


def test_what_failed_or_was_undecided_is_left_out_of_both(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"greedy": {0: set(IDS)}})
    with ResultsWriter.open(tmp_path / "b", run_yaml="data: {name: tinymath}\n", versions={}) as results:
        for problem in IDS[:10]:
            results.add(problem_row(problem, "greedy", None, 0, correct=False), [])
        results.add(problem_row(IDS[10], "greedy", None, 0, correct=None, undecided="two readings"), [])
        results.add(problem_row(IDS[11], "greedy", None, 0, correct=None, status="error", error="lost"), [])
    found = compare(first, tmp_path / "b")
    assert found.strategies[0].comparison.num_problems == 10
    assert "greedy: rows that are errors or undecided: 0 of the first, 2 of the second" in found.notes


def test_strategies_match_by_parameters_then_label_then_as_the_only_ones_of_their_name(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"best_of_n": {0: set()}, "greedy": {0: set()}, "mcts": {0: set()}}, n=4)
    second = write(tmp_path / "b", {"best_of_n": {0: set(IDS)}, "dvts": {0: set()}}, n=8)
    found = compare(first, second)
    assert [row.label for row in found.strategies] == ["best_of_n n=4 / best_of_n n=8"]
    assert "only in the first: greedy n=4, mcts n=4" in found.notes
    assert "only in the second: dvts n=8" in found.notes
    older = write(tmp_path / "c", {"best_of_n": {0: set(IDS)}}, n=4, params='{"n":4,"of_an_older_version":1}')
    assert [row.label for row in compare(older, first).strategies] == ["best_of_n n=4"]
    with pytest.raises(UserError, match=r"no strategy with a problem graded in both: only in the first: dvts n=8"):
        compare(write(tmp_path / "d", {"dvts": {0: set()}}, n=8), older)


def test_runs_on_other_data_are_refused_with_what_each_has(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"greedy": {0: set()}})
    other = write(tmp_path / "b", {"greedy": {0: set()}}, ids=["q1", "q2"], run_yaml="data: {name: gsm8k}\n")
    with pytest.raises(UserError) as refused:
        compare(first, other)
    said = str(refused.value)
    assert "no problem in common" in said and "wanted two runs on the same data" in said
    assert "a has 12 of tinymath, split test, such as 'p0'" in said and "b has 2 of gsm8k, such as 'q1'" in said


def test_it_says_in_words_what_differs(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"greedy": {0: set()}})
    second = write(
        tmp_path / "b",
        {"greedy": {0: set()}},
        ids=[*IDS[:8], "q1"],
        run_yaml="name: y\nseeds: [0, 1]\ndata: {name: tinymath, split: dev}\nspeculation: 2\nsampling: {top_p: 0.9}\n",
    )
    found = compare(first, second)
    assert found.differences == [
        'data.split: "test" in the first, "dev" in the second',
        "only the second sets speculation: 2, sampling.*",
    ], "names and seeds are no difference"
    assert "8 problems are in both runs; 4 are only in the first, 1 only in the second" in found.notes[1]
    assert found.notes[0].startswith("warning: the data differ (tinymath, split test in the first, tinymath, split dev")
    assert 'data.split: "test" in the first' in shown(found)


def test_quintiles_are_of_both_runs_alike_so_that_luck_moves_no_difference(tmp_path: Path) -> None:
    """The first solves the even problems and the second the odd ones: by the first's own accuracy the easy ones would
    show a fall and the hard ones a rise."""
    first = write(tmp_path / "a", {"greedy": {0: set(IDS[::2])}})
    second = write(tmp_path / "b", {"greedy": {0: set(IDS[1::2])}})
    found = compare(first, second)
    assert [row.comparison.difference.value for row in found.quintiles] == [0.0]
    assert found.difficulty == "oracle: the share of all searches of both runs that is right"
    assert compare(second, first).quintiles[0].comparison.num_problems == 12


def test_quintiles_of_samples_are_oracle_or_predicted_or_the_data_sets(tmp_path: Path) -> None:
    write_run(tmp_path)
    oracle, predicted, graded = (compare(tmp_path, tmp_path, kind) for kind in Difficulty)
    greedy = [row for row in oracle.quintiles if row.label == "greedy"]
    assert [row.quintile for row in greedy] == [1, 2, 3, 4, 5]
    assert [row.comparison.ours.value for row in greedy][:2] == [1.0, 1.0]
    assert [row.comparison.ours.value for row in greedy][3:] == [0.0, 0.0]
    assert sum(row.comparison.num_problems for row in greedy) == 12
    assert "pass@1" in oracle.difficulty and "verifier's mean score" in predicted.difficulty
    assert graded.difficulty == "the data set's own grade"
    assert {row.quintile for row in graded.quintiles} <= {1, 2, 3, 4, 5}
    assert len(oracle.quintiles) == 15 and all(row.adjusted_p >= row.comparison.p_value for row in oracle.quintiles)


def test_a_difficulty_that_is_not_there_is_refused(tmp_path: Path) -> None:
    plain = write(tmp_path / "a", {"greedy": {0: set()}}, difficulty=None)
    with pytest.raises(UserError, match="wanted --difficulty oracle: a predicted one is the verifier's mean score"):
        compare(plain, plain, Difficulty.predicted)
    with pytest.raises(UserError, match="the data set grades no problem"):
        compare(plain, plain, Difficulty.dataset)
    few = write(tmp_path / "b", {"greedy": {0: set()}}, ids=IDS[:3])
    found = compare(few, few)
    assert found.quintiles == [] and "no quintiles: 3 compared problems have a difficulty" in found.notes[0]


def test_an_older_folder_without_later_columns_is_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "new")
    write_run(tmp_path / "old")
    for path in (tmp_path / "old").glob("*/part-*.parquet"):
        table = pq.read_table(path)
        later = ["thinking_tokens", "tree", "unjudged", "answer_group", "undecided"]
        pq.write_table(table.drop_columns([name for name in later if name in table.column_names]), path)
    found = compare(tmp_path / "old", tmp_path / "new")
    assert [row.comparison.difference.value for row in found.strategies] == [0, 0, 0]


def test_the_tables_fit_a_narrow_terminal_and_say_what_intervals_are_over(tmp_path: Path) -> None:
    write_run(tmp_path)
    found = compare(tmp_path, tmp_path)
    for width in (80, 120, 160):
        text = shown(found, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text and "beam_search" in text
        assert "95% intervals over problems and seeds" in " ".join(text.split())
    assert "better" in shown(found, 160) and "better" not in shown(found, 80)


def test_samples_of_one_run_only_fall_back_to_all_searches(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    with ResultsWriter.open(tmp_path / "b", run_yaml="data: {name: tinymath}\n", versions={}) as results:
        for problem in IDS:
            results.add(problem_row(problem, "greedy", None, 0, correct=True), [])
    assert "all searches" in compare(tmp_path / "a", tmp_path / "b").difficulty
