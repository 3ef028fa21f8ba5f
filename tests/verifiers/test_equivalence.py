import json
import os
import signal
from pathlib import Path

import pytest

from orchestrator.core.answers import AnswerFormat, normalise, reference_answer
from orchestrator.core.nouns import Comparison
from tests.verifiers.answer_pairs import EQUAL, UNEQUAL
from verifiers.equivalence import Equivalence

REPORTED = Path(__file__).resolve().parents[3] / "shared" / "data" / "reported" / "answers.jsonl"
MATH = Path(__file__).resolve().parents[3] / "shared" / "data" / "math500_dev250.jsonl"
TOWER = "9^{9^{9^{9}}}"  # no interpreter can stop in the middle of it


@pytest.fixture(scope="module")
def equivalence():
    equivalence = Equivalence()
    yield equivalence
    equivalence.close()


def verdicts(equivalence: Equivalence, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
    both_ways = [*pairs, *((b, a) for a, b in pairs)]
    plain = [(reference_answer(a), normalise(b)) for a, b in both_ways]
    return {
        pair: equivalence.compare(a, [b])[0].equal for pair, (a, b) in zip(both_ways, plain, strict=True) if a and b
    }


@pytest.mark.parametrize("kind", EQUAL)
def test_what_a_reader_calls_equal_is_equal_both_ways(equivalence, kind):
    assert [pair for pair, equal in verdicts(equivalence, EQUAL[kind]).items() if equal is not True] == []


@pytest.mark.parametrize("kind", UNEQUAL)
def test_what_a_reader_calls_unequal_is_unequal_both_ways(equivalence, kind):
    assert [pair for pair, equal in verdicts(equivalence, UNEQUAL[kind]).items() if equal is not False] == []


def test_a_vote_takes_an_equation_for_a_number_as_that_number_in_any_order(equivalence):
    assert equivalence.classes(["204", "m+n = 204", "7"]) == [0, 0, 1]
    assert equivalence.classes(["m+n = 204", "7", "204"]) == [0, 1, 0]


@pytest.mark.parametrize(
    ("reference", "answer"), [(r"#### \frac{1}{2}", "1/2"), ("#### $18", "18"), ("#### yes", "Yes")]
)
def test_a_reference_after_hashes_is_what_follows_them(equivalence, reference, answer):
    [comparison] = equivalence.compare(reference_answer(reference), [answer])
    assert comparison.equal


@pytest.mark.skipif(not REPORTED.exists(), reason="the reported cases are not here")
def test_every_reported_case_has_its_verdict(equivalence):
    with REPORTED.open() as lines:
        cases = [json.loads(line) for line in lines]
    extract = AnswerFormat.parse(None).extract
    wrong = []
    for case in cases:
        [comparison] = equivalence.compare(reference_answer(case["reference"]), [extract(case["solution"])])
        if comparison.equal is not case["correct"]:
            wrong.append((case, comparison))
    assert wrong == []


@pytest.mark.skipif(not MATH.exists(), reason="the published files are not here")
def test_every_published_solution_of_math_has_its_answer(equivalence):
    with MATH.open() as lines:
        problems = [json.loads(line) for line in lines]
    extract = AnswerFormat.parse("math").extract
    for problem in problems:
        found = extract(problem["solution"])
        assert equivalence.compare(reference_answer(problem["answer"]), [found]) == [Comparison(equal=True)], problem


def test_votes_group_what_is_equal_and_no_answer_has_no_group(equivalence):
    halves = [r"\frac{1}{2}", r"\dfrac{1}{2}", "0.5", "1/2", r"\frac12", "3", None, r"\frac{\sqrt{4}}{4}", "3.0"]
    assert equivalence.classes(halves) == [0, 0, 0, 0, 0, 1, None, 0, 1]


def test_numbers_and_words_start_no_process():
    equivalence = Equivalence()
    equivalence.compare("18", ["18.0", "$18", "19", None, "eighteen", "(1, 2)", "Evelyn"])
    equivalence.classes(["1/2", "0.5", r"\frac{1}{2}", "E", "(E)"])
    assert equivalence._process is None


def test_one_comparison_without_end_is_undecided_and_costs_no_other_its_verdict():
    equivalence = Equivalence(cpu_s=(1, 1))
    try:
        answers = [r"\sqrt{4}", TOWER, *([r"\sqrt{4}", r"\sqrt{9}"] * 7)]
        comparisons = equivalence.compare("2", answers)
        assert comparisons[1].equal is None
        assert "not decided within 1 s of CPU time" in (comparisons[1].reason or "")
        del comparisons[1]
        assert [comparison.equal for comparison in comparisons] == [True] + [True, False] * 7
        process = equivalence._process
        assert equivalence.compare("2", answers)[1].equal is None
        assert equivalence._process is process, "what is known to be undecided is not tried again"
    finally:
        equivalence.close()


def test_a_process_that_is_killed_is_replaced_and_close_leaves_none():
    equivalence = Equivalence()
    assert equivalence.compare("2", [r"\sqrt{4}"]) == [Comparison(equal=True)]
    first = equivalence._process
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert equivalence.compare("3", [r"\sqrt{9}", None]) == [Comparison(equal=True), Comparison(equal=False)]
    second = equivalence._process
    assert second is not None and second is not first
    equivalence.close()
    assert second.poll() is not None
