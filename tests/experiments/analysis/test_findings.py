"""The methods of a run, their pairs, and the sentences that are said of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.analysis.curves import sample_curves
from experiments.analysis.findings import Finding, Kind, findings
from experiments.analysis.pairwise import ComparedPair, Method, compare_all, methods_of, pairs_table
from orchestrator.results import ResultsWriter, read_results
from tests.experiments.synthetic import RUN_YAML, problem_row, sample_rows, write_error, write_run


def method(name: str, right: range, num_problems: int = 60, tokens: float = 50) -> Method:
    return Method(name=name, accuracies={f"p{i}": float(i in right) for i in range(num_problems)}, tokens=tokens)


def said(folder: Path) -> dict[Kind, list[str]]:
    problems, candidates = read_results(folder)
    pool = sample_curves(problems, candidates)
    found = methods_of(problems, pool)
    return by_kind(findings(problems, candidates, pool, found, compare_all(found)))


def by_kind(told: list[Finding]) -> dict[Kind, list[str]]:
    return {kind: [one.text for one in told if one.kind is kind] for kind in Kind}


def of_pairs(tested: list[ComparedPair], found: list[Method], tmp_path: Path) -> dict[Kind, list[str]]:
    """With the rows of a run that has only an error."""
    write_error(tmp_path)
    return by_kind(findings(*read_results(tmp_path), None, found, tested))


def test_votes_over_the_samples_compete_but_not_what_the_strategy_does_itself(tmp_path: Path) -> None:
    write_run(tmp_path / "judged")
    write_run(tmp_path / "votes", judged=False)
    names = {}
    for run in ("judged", "votes"):
        problems, candidates = read_results(tmp_path / run)
        names[run] = {one.name for one in methods_of(problems, sample_curves(problems, candidates))}
    own = {"greedy", "beam_search n=4"}
    assert names["judged"] == own | {"best_of_n n=8", "maj@8 of best_of_n n=8", "weighted@8 of best_of_n n=8"}
    assert names["votes"] == own | {"self_consistency n=8"}


def test_a_pair_is_told_with_the_more_accurate_first_and_p_after_holm() -> None:
    found = [method("low", range(20)), method("high", range(40)), method("same", range(21))]
    tested = compare_all(found)
    assert [(pair.better.name, pair.other.name) for pair in tested] == [
        ("high", "low"), ("high", "same"), ("same", "low"),
    ]  # fmt: skip
    assert [pair.significant for pair in tested] == [True, True, False]
    assert tested[0].adjusted_p == pytest.approx(3 * tested[0].comparison.p_value)


def test_what_is_significant_is_said_with_its_interval_its_problems_and_its_price(tmp_path: Path) -> None:
    found = [method("low", range(20)), method("high", range(40), tokens=400)]
    told = of_pairs(compare_all(found), found, tmp_path)
    [line] = told[Kind.SHOWN]
    assert line.startswith("high is more accurate than low: +33.3 [") and line.endswith("for 8 times its tokens.")
    assert "better on 20 and worse on 0 of the same 60 problems (p < 0.001)" in line
    assert told[Kind.OPEN] == ["None: every pair of strategies differs significantly."]


def test_where_nothing_is_significant_that_is_said_with_what_would_have_been(tmp_path: Path) -> None:
    found = [method("low", range(20)), method("same", range(21))]
    tested = compare_all(found)
    told = of_pairs(tested, found, tmp_path)
    assert told[Kind.SHOWN] == ["Nothing: no difference between two strategies of this run is significant."]
    assert tested[0].smallest is not None
    assert told[Kind.OPEN][0].startswith("Of 1 pairs, 1 show no significant difference. That does not mean")
    assert f"{100 * tested[0].smallest:.1f} points would be shown." in told[Kind.OPEN][1]


def test_on_five_problems_it_is_said_that_nothing_could_be_shown(tmp_path: Path) -> None:
    found = [method("low", range(0), 5), method("high", range(5), 5)]
    assert "on so few problems none could be shown" in of_pairs(compare_all(found), found, tmp_path)[Kind.OPEN][1]


def test_an_unadjusted_p_below_005_is_no_finding_after_holm(tmp_path: Path) -> None:
    """Problem by problem, 6 won and none lost: p = 0.031, and 0.094 among three pairs."""
    found = [method("a", range(20)), method("b", range(26)), method("c", range(23))]
    tested = compare_all(found)
    assert tested[0].comparison.p_value < 0.05 < tested[0].adjusted_p
    assert of_pairs(tested, found, tmp_path)[Kind.SHOWN] == [
        "Nothing: no difference between two strategies of this run is significant."
    ]


def test_one_strategy_alone_and_no_graded_row_are_said_as_that(tmp_path: Path) -> None:
    found = [method("only", range(20))]
    told = of_pairs([], found, tmp_path)
    assert told[Kind.SHOWN] == ["There is nothing to compare: only is the only strategy on its problems."]
    write_error(tmp_path / "errors")
    told = said(tmp_path / "errors")
    assert told[Kind.SHOWN] == ["Nothing was graded, so there is nothing to compare."]
    assert told[Kind.LOST] == [
        "greedy: of 1 searches 1 (100.0%) ended in an error.",
        "Errors count in no accuracy. The first is broken (greedy): the prompt leaves no room",
    ]


def test_a_verifier_is_measured_within_problems_and_few_problems_are_told(tmp_path: Path) -> None:
    write_run(tmp_path)
    measured = said(tmp_path)[Kind.MEASURED]
    assert measured[0].startswith("The highest accuracy is that of best_of_n n=8: 91.7% [65, 99] of 12 problems at 400")
    assert measured[1].startswith("12 problems are few")
    assert "at least one is right on 91.7% [75, 100] of problems" in measured[2]
    assert "in 100.0% [100, 100] of pairs" in measured[3] and "on the 7 problems that have both" in measured[3]
    assert "better than chance" in measured[3]
    assert measured[4] == "From 1 to 8 samples, no significant loss of accuracy by following the verifier is seen."


def test_a_verifier_that_prefers_wrong_answers_is_said_to_hurt(tmp_path: Path) -> None:
    """40 problems, half of whose samples are right and scored below all wrong ones."""
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        for index in range(40):
            samples = [
                replace(row, aggregate_score=0.2 if row.correct else 0.7, step_scores=(0.5, 0.5))
                for row in sample_rows(f"p{index}", 4, 0, True, False)
            ]
            results.add(problem_row(f"p{index}", "best_of_n", 8, 0, correct=False, num_candidates=8), samples)
    measured = said(tmp_path)[Kind.MEASURED]
    assert "worse than chance" in measured[2]
    assert measured[3].startswith(
        "More samples hurt: the best-scored of 8 is right less often than the best-scored of 1"
    )


def test_a_run_without_a_verifier_says_nothing_of_one(tmp_path: Path) -> None:
    write_run(tmp_path, judged=False)
    assert not [line for line in said(tmp_path)[Kind.MEASURED] if "verifier scores" in line or "following" in line]


def test_what_was_cut_off_or_unanswered_is_counted_by_strategy(tmp_path: Path) -> None:
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        for index in range(4):
            samples = [
                replace(row, status="truncated", answer=None, answer_group=None, correct=False)
                if row.candidate < 4
                else replace(row, unjudged="too long")
                if row.candidate == 4
                else row
                for row in sample_rows(f"p{index}", 4, 0, True, False)
            ]
            changes = {"end_reason": "budget"} if index == 0 else {}
            row = problem_row(f"p{index}", "best_of_n", 8, 0, correct=True, num_candidates=8)
            results.add(replace(row, **changes), samples)
    lost = said(tmp_path)[Kind.LOST]
    assert lost[0] == (
        "best_of_n n=8: of 32 candidates 16 (50.0%) were cut off, 16 (50.0%) have no answer and 4 (12.5%) were not "
        "judged by the verifier (16 are both cut off and without an answer)."
    )
    assert "raise sampling.max_tokens" in lost[1]
    assert lost[2] == "best_of_n n=8: of 4 searches 1 (25.0%) were ended by a cap of the budget."


def test_where_nothing_was_lost_that_is_said(tmp_path: Path) -> None:
    with ResultsWriter.open(tmp_path, run_yaml=RUN_YAML, versions={}) as results:
        results.add(problem_row("p0", "greedy", None, 0, correct=True), [])
    assert said(tmp_path)[Kind.LOST] == [
        "Nothing: every search ended by itself with an answer, and every candidate too."
    ]


def test_the_table_of_pairs_holds_them_all(tmp_path: Path) -> None:
    found = [method(f"s{i}", range(20 + i)) for i in range(6)]
    tested = compare_all(found)
    assert len(pairs_table(tested).rows) == 15
    assert of_pairs(tested, found, tmp_path)[Kind.OPEN][-1] == "9 more such pairs are in the table of pairs."
