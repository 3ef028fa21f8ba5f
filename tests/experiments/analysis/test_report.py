import io
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console

from experiments.analysis.curves import curves, sample_curves
from experiments.analysis.figure import draw
from experiments.analysis.intervals import wilson_interval
from experiments.analysis.metrics import pass_at_k
from experiments.analysis.report import report
from experiments.analysis.summary import unjudged_notes
from experiments.analysis.tables import si
from orchestrator.core.errors import UserError
from orchestrator.results import ResultsWriter, read_results
from tests.experiments.synthetic import NUM_PROBLEMS, problem_row, write_error, write_run


def run_report(folder: Path) -> str:
    console = Console(width=200, file=io.StringIO())
    report(folder, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with its report, and what the terminal showed."""
    folder = tmp_path_factory.mktemp("reported")
    write_run(folder)
    return folder, run_report(folder)


def value(tidy: pd.DataFrame, series: str, k: int) -> float:
    (row,) = tidy[(tidy["series"] == series) & (tidy["k"] == k)].to_dict("records")
    return float(row["accuracy"])


def test_the_tables_hold_the_known_numbers(reported: tuple[Path, str]) -> None:
    text = (reported[0] / "report.md").read_text()
    low, high = 100 * wilson_interval(11, 12).low, 100 * wilson_interval(11, 12).high
    assert f"| best_of_n n=8 | 91.7 [{low:.0f}, {high:.0f}] | 400 | 40 | 480 | 880 M | 0.25 | 480 (432) | 0 |" in text
    assert "| greedy | 50.0 [25, 75] | 50 | 0 | 0 | 50 M | 0.25 | 60 | 1 |" in text
    assert "| k | tokens | pass@k | maj@k | prm@k | weighted@k |" in text
    assert "| 8 | 400 | 91.7 [" in text
    assert "prm@8 - greedy: +41.7 points" in text  # 11 of 12 against 6 of 12, on the same problems


def test_the_terminal_shows_both_tables_and_the_files(reported: tuple[Path, str]) -> None:
    assert "Accuracy and mean cost per problem" in reported[1]
    assert "k of the samples of best_of_n n=8, 12 problems" in reported[1]
    assert "report.md, compute_accuracy.png, compute_accuracy.svg, report.html" in reported[1]


def test_errors_are_told_and_count_in_no_accuracy(reported: tuple[Path, str]) -> None:
    assert "1 of 37 rows ended in an error and count in no accuracy:" in reported[1]
    assert "broken (greedy): the prompt leaves no room" in reported[1]


def test_candidates_that_were_not_judged_are_told() -> None:
    candidates = pd.DataFrame({"unjudged": [None, "a riddle", "no verdict"]})
    assert unjudged_notes(candidates) == ["2 of 3 candidates could not be judged and rank last; the first: a riddle"]
    assert unjudged_notes(candidates[:1]) == []


def test_curves_have_the_known_values(tmp_path: Path) -> None:
    write_run(tmp_path)
    tidy = curves(*read_results(tmp_path))
    num_correct = [min(index, 8) for index in range(NUM_PROBLEMS)]
    for k in (1, 2, 4, 8):
        wanted = sum(pass_at_k(8, c, k) for c in num_correct) / NUM_PROBLEMS
        assert value(tidy, "pass@k", k) == pytest.approx(wanted)
        assert value(tidy, "prm@k", k) == pytest.approx(wanted)  # this verifier is never wrong
    assert value(tidy, "maj@k", 8) == pytest.approx(7.5 / 12, abs=0.02)  # problem 4 is a tie, 5 to 11 are won
    assert value(tidy, "weighted@k", 8) >= value(tidy, "maj@k", 8)
    points = tidy[tidy["kind"] == "point"].set_index("series")
    assert points["accuracy"].to_dict() == {"greedy": 0.5, "beam_search": 0.75}
    assert (tidy["low"] <= tidy["accuracy"]).all() and (tidy["accuracy"] <= tidy["high"]).all()


def test_k_samples_cost_their_share_and_the_verifier_only_where_it_is_asked(tmp_path: Path) -> None:
    write_run(tmp_path)
    tidy = curves(*read_results(tmp_path)).set_index(["series", "k"])
    assert tidy.loc[("prm@k", 2), "generated_tokens"] == 100
    assert tidy.loc[("prm@k", 2), "total_flops"] == 100e6 + 120e6
    assert tidy.loc[("maj@k", 2), "total_flops"] == 100e6
    assert tidy.loc[("pass@k", 8), "total_flops"] == 400e6


def test_an_unjudged_pool_has_no_verifier_metrics(tmp_path: Path) -> None:
    write_run(tmp_path, judged=False)
    tidy = curves(*read_results(tmp_path))
    assert set(tidy.loc[tidy["kind"] == "curve", "series"]) == {"pass@k", "maj@k"}
    text = run_report(tmp_path)
    assert "k of the samples of self_consistency n=8" in text
    assert "prm@" not in text


def test_seeds_are_averaged_and_do_not_narrow_the_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    write_run(tmp_path / "three", seeds=(0, 1, 2))
    one, three = (curves(*read_results(tmp_path / name)).set_index(["series", "label"]) for name in ("one", "three"))
    column = ["num_problems", "accuracy", "low", "high"]
    greedy = ("greedy", "greedy")
    assert three.loc[[greedy], column].values.tolist() == one.loc[[greedy], column].values.tolist()
    run_report(tmp_path / "three")
    assert "| greedy | 3 | 50.0 [25, 75] |" in (tmp_path / "three" / "report.md").read_text()


def test_the_seconds_of_a_replay_are_not_shown(tmp_path: Path) -> None:
    with ResultsWriter.open(tmp_path, run_yaml="name: x\n", versions={}) as results:
        results.add(problem_row("p1", "best_of_n", 8, 0, correct=True, replayed_from="run"), [])
    run_report(tmp_path)
    assert "880 M | - | - |" in (tmp_path / "report.md").read_text()


def test_curves_take_frames_as_pandas_reads_them(tmp_path: Path) -> None:
    write_run(tmp_path)
    plain = curves(pd.read_parquet(tmp_path / "problems"), pd.read_parquet(tmp_path / "candidates"))
    pd.testing.assert_frame_equal(plain, curves(*read_results(tmp_path)))


def test_without_samples_there_are_still_the_other_strategies(tmp_path: Path) -> None:
    write_run(tmp_path, sampled=False)
    problems, candidates = read_results(tmp_path)
    assert sample_curves(problems, candidates) is None
    tidy = curves(problems, candidates)
    assert set(tidy["kind"]) == {"point"}
    assert {text.get_text() for text in draw(tidy, title="", subtitle="").axes[0].texts} == {"greedy", "beam_search"}


def test_a_run_of_errors_alone_has_a_table_and_no_figure(tmp_path: Path) -> None:
    write_error(tmp_path)
    assert "1 of 1 rows ended in an error" in run_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| greedy | - | - | - | - | - | - | 1 |" in text
    assert "compute_accuracy" not in text
    assert not list(tmp_path.glob("compute_accuracy.*"))


def test_a_run_without_rows_is_one_clear_error(tmp_path: Path) -> None:
    ResultsWriter.open(tmp_path, run_yaml="seed: 0\n", versions={}).close()
    with pytest.raises(UserError, match="holds no rows yet"):
        run_report(tmp_path)


def test_equal_rows_give_equal_and_sharp_figures(reported: tuple[Path, str], tmp_path: Path) -> None:
    names = ("compute_accuracy.png", "compute_accuracy.svg")
    assert imread(reported[0] / names[0]).shape[1] >= 1600  # sharp on a dense screen at 800 pixels
    write_run(tmp_path)
    run_report(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == [(reported[0] / name).read_bytes() for name in names]


def test_every_series_is_named_inside_its_panel_and_no_name_covers_another(tmp_path: Path) -> None:
    write_run(tmp_path)
    figure = draw(curves(*read_results(tmp_path)), title="Title", subtitle="subtitle")
    names = {"coverage (upper bound)", "maj@k", "prm@k", "weighted@k", "greedy", "beam_search"}
    for axes in figure.axes:
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        assert boxes.keys() == names
        frame = axes.get_window_extent().padded(1)
        assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes.values())
        pairs = [(a, b) for a in boxes for b in boxes if a < b]
        assert not [pair for pair in pairs if boxes[pair[0]].overlaps(boxes[pair[1]])]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "report.md").mkdir()
    with pytest.raises(UserError, match="report: can't write to"):
        run_report(tmp_path)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.9, "1 k"), (1234, "1.23 k"), (1.25e9, "1.25 G"), (5e17, "500 P"), (3e24, "3e+06 E")],
)
def test_large_numbers_have_si_prefixes(number: float, text: str) -> None:
    assert si(number) == text


def test_where_flops_are_not_known_there_is_no_panel_of_them_and_no_zero(tmp_path: Path) -> None:
    write_run(tmp_path)
    problems, candidates = read_results(tmp_path)
    for frame in (problems, candidates):
        frame[["policy_flops", "verifier_flops"]] = 0.0
    figure = draw(curves(problems, candidates), title="Title", subtitle="subtitle")
    assert [axes.get_xlabel() for axes in figure.axes] == ["generated tokens per problem"]
