"""`report.html` as text: what it holds, that strangers' texts stay texts, and that it needs no network."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.page import page_of, sort_value
from experiments.analysis.page.view import read_view
from orchestrator.results import ResultsWriter, tree_table
from tests.experiments.synthetic import RUN_YAML, problem_row, sample_rows, write_error, write_run
from tests.orchestrator.results.test_results import BEFORE
from tests.orchestrator.results.test_trees import BEAM, rows_of

DEMO = Path(__file__).parents[1] / "demo_results"
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def page(*folders: Path) -> str:
    return page_of([read_view(folder) for folder in folders])


def write_hostile(folder: Path) -> None:
    """Every text that a stranger writes holds a script."""
    rows = [replace(one, text=HOSTILE, answer=HOSTILE, label=HOSTILE) for one in sample_rows("p0", 3, 0, True, False)]
    with ResultsWriter.open(folder, run_yaml=f"{RUN_YAML}note: {json.dumps(HOSTILE)}\n", versions={}) as results:
        row = problem_row(
            "p0", "best_of_n", 8, 0, correct=False, num_candidates=8, answer=HOSTILE, policy_model=HOSTILE
        )
        row = replace(row, label=HOSTILE)
        nodes = [replace(node, text=HOSTILE) for node in rows_of(BEAM, params=row.params, label=HOSTILE)]
        results.add(row, rows, tree_table(nodes))
        failed = problem_row(
            HOSTILE, "greedy", None, 0, correct=None, status="error", error=HOSTILE, answer=None, score=None
        )
        results.add(replace(failed, label=HOSTILE), [])


def charts_in(html: str) -> list[Any]:
    return [json.loads(told) for told in re.findall(r'<script type="application/json">(.*?)</script>', html)]


def headings(html: str) -> list[str]:
    return re.findall(r"<h[12]>(.*?)</h[12]>", html)


def test_a_page_holds_findings_first_then_curves_tables_examples_and_settings(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    html = page(tmp_path / "run")
    assert headings(html) == [
        "run", "Findings", "Accuracy against compute", "Tables", "Worst and best problems",
        "Configuration and versions",
    ]  # fmt: skip
    [chart] = charts_in(html)
    assert [series["name"] for series in chart] == [
        "pass@k (upper bound)", "maj@k", "prm@k", "weighted@k", "greedy", "beam_search",
    ]  # fmt: skip
    assert chart[2]["points"][-1]["name"] == "prm@8" and chart[2]["points"][-1]["x"]["tokens"] == 400
    assert "data: {name: tinymath}" in html and "<dt>headrace</dt><dd>0</dd>" in html
    assert html.count("<table") == 3 and "No difference" not in html.split("<h2>Findings")[0]


def test_nothing_is_loaded_and_only_the_pages_own_script_and_style_may_run(tmp_path: Path) -> None:
    write_run(tmp_path)
    html = page(tmp_path)
    [policy] = re.findall(r'Content-Security-Policy" content="(.*?)"', html)
    assert policy.replace("&#39;", "'").startswith("default-src 'none'; script-src 'sha256-")
    assert not re.findall(r'(?:src|href)="(?!#|data:,)', html) and "url(" not in html and "@import" not in html
    assert not re.findall(r"<[^>]* style=", html)  # the policy would drop it


def test_a_strangers_text_ends_no_element_and_starts_none(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    html = page(tmp_path)
    assert html.count("<script") == 2 and html.count("</script>") == 2  # the curves and the page's own
    assert "<img" not in html
    assert html.count("&lt;script&gt;document.title=") > 10
    assert charts_in(html)[0][0]["points"]


def test_a_login_in_a_url_of_the_configuration_is_not_shown(tmp_path: Path) -> None:
    run_yaml = "policy: {urls: ['https://alice:secret@host:8000/v1']}\n"
    with ResultsWriter.open(tmp_path, run_yaml=run_yaml, versions={}) as results:
        results.add(problem_row("p0", "greedy", None, 0, correct=True), [])
    html = page(tmp_path)
    assert "secret" not in html and "alice" not in html and "https://***@host:8000/v1" in html


def test_a_run_without_a_verifier_has_no_curve_of_one(tmp_path: Path) -> None:
    write_run(tmp_path, judged=False)
    [chart] = charts_in(page(tmp_path))
    assert {series["series"] for series in chart} == {"pass@k", "maj@k", "greedy", "beam_search"}


def test_a_run_of_errors_alone_says_so_and_has_no_curve(tmp_path: Path) -> None:
    write_error(tmp_path)
    html = page(tmp_path)
    assert charts_in(html) == [] and "No row was graded, so there is no curve." in html
    assert "Nothing was graded, so there is nothing to compare." in html and html.count("<p>None.</p>") == 2


def test_a_run_of_an_older_version_has_a_page_that_says_that_it_kept_no_trees() -> None:
    html = page(BEFORE)
    assert "No tree was kept." in html and "The question is not in the results of a run without trees." in html


def test_the_demo_is_told_with_its_trees_and_what_it_shows() -> None:
    html = page(DEMO)
    assert "Nothing: no difference between two strategies of this run is significant." in html  # on 40 problems
    assert "best_of_n n=16 and greedy: +15.0 [+0.2, +28.4] points, better on 7 and worse on 1 of the same 40" in html
    assert html.count('<details class="tree">') == 3 * 10 and 'class="step chosen"' in html  # ten problems, three trees
    assert "No tree was kept" not in html


def test_flops_that_are_not_known_are_no_axis(tmp_path: Path) -> None:
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        results.add(problem_row("p0", "greedy", None, 0, correct=True, policy_flops=0.0), [])
    [[series]] = charts_in(page(tmp_path))
    assert series["points"][0]["x"] == {"tokens": 50.0, "flops": None, "k": None}


def test_several_runs_are_held_against_the_first_and_drawn_together(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", judged=False)
    html = page(tmp_path / "a", tmp_path / "b")
    assert headings(html)[:3] == ["2 runs compared", "b against a", "All runs in one picture"]
    assert {"a", "b"} < set(headings(html))
    together = charts_in(html)[0]
    assert {"a: prm@k", "b: maj@k", "b: greedy"} < {series["name"] for series in together}
    assert "greedy: no significant difference is shown, +0.0 [" in html and "of such runs would show" in html
    assert "only in the first: best_of_n n=8" in html
    quintile = re.findall(r'<th scope="row">(.*?)</th><td class="number" data-sort="([1-5]).0">', html)
    assert ("greedy", "5") in quintile and ("", "5") not in quintile  # sorted, each row needs its name


def test_a_run_that_is_significantly_worse_is_said_to_be(tmp_path: Path) -> None:
    for name, least in (("a", 10), ("b", 30)):
        with ResultsWriter.open(tmp_path / name, run_yaml=RUN_YAML, versions={}) as results:
            for index in range(60):
                results.add(problem_row(f"p{index}", "greedy", None, 0, correct=index >= least), [])
    html = page(tmp_path / "a", tmp_path / "b")
    assert (
        "greedy: b is significantly less accurate than a, -33.3 [" in html
        and "no significant difference is" not in html
    )


def test_runs_that_can_not_be_paired_each_have_their_part_and_the_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    with ResultsWriter.open(tmp_path / "b", run_yaml=RUN_YAML, versions={}) as results:
        results.add(problem_row("another", "greedy", None, 0, correct=True), [])
    html = page(tmp_path / "a", tmp_path / "b")
    assert '<p class="error">compare: the two runs have no problem in common' in html
    assert {"a", "b"} < set(headings(html))


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        write_run(tmp_path / parent / "run")
    html = page(tmp_path / "x" / "run", tmp_path / "y" / "run")
    assert {str(tmp_path / "x" / "run"), str(tmp_path / "y" / "run")} < set(headings(html))


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("91.7 [65, 99]", 91.7), ("1,234", 1234), ("1.25 G", 1.25e9), ("480 (432)", 480), ("+1.5 [-3.0, +5.9]", 1.5),
        ("-2.0 [-5.1, +1.0]", -2), ("<0.001", 0.001), ("34 / 9", 34), ("-", None), ("best_of_n n=8", None), ("", None),
    ],
)  # fmt: skip
def test_cells_sort_by_the_number_that_they_begin_with(cell: str, number: float | None) -> None:
    assert sort_value(cell) == (None if number is None else pytest.approx(number))
