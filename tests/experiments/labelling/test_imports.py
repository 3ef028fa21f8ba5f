import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.labelling.imports import ImportRules, Neutral, read_solutions
from orchestrator.core.errors import UserError

REAL = Path(__file__).parents[4] / "shared" / "data" / "formats"


def completion(text, rating, flagged=False):
    return {"text": text, "rating": rating, "flagged": flagged}


def step(*completions, chosen=None, human=None):
    human = None if human is None else {"text": human, "rating": None, "source": "human", "flagged": False}
    return {"completions": list(completions), "chosen_completion": chosen, "human_completion": human}


def prm800k(*steps, reason="solution", **fields):
    return {
        "generation": None,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": "1 + 1 + 1?"},
        "label": {"steps": list(steps), "finish_reason": reason},
        **fields,
    }


def imported(tmp_path, format, *records, **reading):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return list(read_solutions(format, path, ImportRules(**reading)).solutions)


def labels(solutions):
    return {" ".join(solution.completions): solution.labels for solution in solutions}


def test_a_phase_1_record_is_its_chosen_solution_and_the_other_steps_rated_on_the_way(tmp_path):
    record = prm800k(
        step(completion("a", 1), chosen=0),
        step(completion("x", -1), completion("y", -1), completion("x", -1), human="b"),
        step(completion("z", -1), completion("c", 1), chosen=1),
    )
    solutions = imported(tmp_path, "prm800k", record)
    assert labels(solutions) == {
        "a x": (1, 0),
        "a y": (1, 0),
        "a b z": (1, 1, 0),
        "a b c": (1, 1, 1),
    }
    assert len(solutions) == 4 and {s.problem_id for s in solutions} == {solutions[0].problem_id}
    assert {(s.source, s.prompt) for s in solutions} == {("prm800k", "1 + 1 + 1?")}
    assert list(labels(imported(tmp_path, "prm800k", record, alternatives=False))) == ["a b c"]


def test_a_phase_2_record_ends_with_its_first_error(tmp_path):
    wrong = step(completion("x", -1, None), completion("b", 1))
    record = prm800k(step(completion("a", 1, None), chosen=0), wrong, reason="found_error", generation=3)
    assert labels(imported(tmp_path, "prm800k", record)) == {"a b": (1, 1), "a x": (1, 0)}
    assert labels(imported(tmp_path, "prm800k", record, alternatives=False)) == {"a x": (1, 0)}


def test_neutral_steps_are_right_ones_unless_asked_otherwise(tmp_path):
    record = prm800k(step(completion("a", 0), chosen=0), step(completion("b", 1), chosen=0))
    assert labels(imported(tmp_path, "prm800k", record)) == {"a b": (1, 1)}
    assert labels(imported(tmp_path, "prm800k", record, neutral=Neutral.negative)) == {"a b": (0, 0)}


def test_after_a_step_that_nobody_could_rate_the_rest_is_unknown_until_an_error(tmp_path):
    record = prm800k(
        step(completion("a", 1), chosen=0),
        step(completion("b", 1, flagged=True), completion("x", -1, flagged=True), chosen=0),
        step(completion("c", None), chosen=0),
        step(completion("d", 1), chosen=0),
        step(completion("e", -1), chosen=0),
        step(completion("f", 1), chosen=0),
    )
    assert labels(imported(tmp_path, "prm800k", record)) == {"a b c d e f": (1, None, None, None, 0, 0)}


def test_a_solution_that_was_given_up_is_cut_and_broken_or_repeated_problems_are_left_out(tmp_path):
    nothing = {"completions": None, "chosen_completion": None, "human_completion": None}
    given_up = prm800k(step(completion("a", 1), chosen=0), nothing, reason="give_up")
    assert labels(imported(tmp_path, "prm800k", given_up)) == {"a": (1,)}
    whole = prm800k(step(completion("a", 1), chosen=0))
    left_out = [
        prm800k(nothing, reason="give_up"),
        {**whole, "label": {**whole["label"], "finish_reason": "bad_problem"}},
        {**whole, "is_quality_control_question": True},
        {**whole, "is_initial_screening_question": True},
    ]
    assert imported(tmp_path, "prm800k", *left_out) == []


def test_math_shepherd_steps_stay_wrong_after_the_first_minus(tmp_path):
    given = "Is 1 + 1 - 1 2? Step 1: 1 + 1 = 2 ки\nStep 2: 2 - 1 = 1 ки\nStep 3: The answer is: 1 ки"
    label = "Is 1 + 1 - 1 2? Step 1: 1 + 1 = 2 +\nStep 2: 2 - 1 = 1 -\nStep 3: The answer is: 1 +"
    [solution] = imported(tmp_path, "math_shepherd", {"input": given, "label": label, "task": "GSM8K"})
    assert solution.prompt == "Is 1 + 1 - 1 2?"
    assert solution.completions == ("Step 1: 1 + 1 = 2", "Step 2: 2 - 1 = 1", "Step 3: The answer is: 1")
    assert solution.labels == (1, 0, 0)


def test_stepwise_records_are_read_from_json_lines_and_parquet(tmp_path):
    records = [
        {"prompt": "p", "completions": ["a", "b", "c"], "labels": [True, False, True]},
        {"prompt": "q", "completions": ["a"], "labels": [False]},
    ]
    solutions = imported(tmp_path, "stepwise", *records)
    assert [(s.prompt, s.completions, s.labels) for s in solutions] == [
        ("p", ("a", "b", "c"), (1, 0, 0)),
        ("q", ("a",), (0,)),
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "train.parquet")
    assert list(read_solutions("stepwise", tmp_path / "train.parquet").solutions) == solutions


GOOD = {"prompt": "p", "completions": ["a"], "labels": [True]}
SHEPHERD = {"input": "p Step 1: a ки\nStep 2: b ки", "label": "p Step 1: a +\nStep 2: b -"}


@pytest.mark.parametrize(
    ("format", "record", "message"),
    [
        ("stepwise", {"prompt": "p"}, "completions is missing"),
        ("stepwise", {**GOOD, "labels": []}, "wanted a label for each of at least one step, got 1 and 0"),
        ("stepwise", {**GOOD, "labels": ["+"]}, r"labels must be true, false, null or in 0\.\.1, got '\+'"),
        ("stepwise", {**GOOD, "completions": [1]}, "completions must be texts, got 1"),
        ("math_shepherd", {"input": "p", "label": "p"}, "input must be a problem"),
        ("math_shepherd", {**SHEPHERD, "input": "p a ки"}, "input must be a problem"),
        ("math_shepherd", {**SHEPHERD, "label": "p Step 1: a +\nStep 2: b"}, r"label must be input with \+ or -"),
        ("math_shepherd", {**SHEPHERD, "label": "q Step 1: a +\nStep 2: b -"}, r"label must be input with \+ or -"),
        ("prm800k", {"question": {}}, r"label\.finish_reason is missing"),
        ("prm800k", prm800k(step(completion("a", 7), chosen=0)), "rating must be -1, 0 or 1, got 7"),
        ("prm800k", prm800k(step(completion("a", 1), chosen=1)), "chosen_completion must be one of 1 completions"),
        ("prm800k", prm800k(step({"text": "a"}, chosen=0)), "rating is missing"),
        ("prm800k", prm800k(step("a", chosen=0)), "text is missing"),
    ],
)
def test_a_malformed_record_is_named_with_its_line(tmp_path, format, record, message):
    good = {"stepwise": GOOD, "math_shepherd": SHEPHERD, "prm800k": prm800k(step(completion("a", 1), chosen=0))}
    with pytest.raises(UserError, match=rf"records\.jsonl line 2: {message}"):
        imported(tmp_path, format, good[format], record)


def test_a_file_or_format_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "file.jsonl"
    with pytest.raises(UserError, match=r"can't read .*file\.jsonl"):
        list(read_solutions("stepwise", path).solutions)
    with pytest.raises(UserError, match=r"got 'prm800', wanted one of .*; did you mean prm800k\?"):
        list(read_solutions("prm800", path).solutions)
    for content, message in (
        (b"\n{", "line 2 is not JSON"),
        (b"\xff", "line 1 is not UTF-8"),
        (b"[]", "line 1 must be"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            list(read_solutions("stepwise", path).solutions)
    with pytest.raises(UserError, match="can't read"):
        list(read_solutions("stepwise", path.rename(tmp_path / "file.parquet")).solutions)


def test_the_records_that_published_files_are_known_to_hold_are_skipped_and_counted(tmp_path):
    path = tmp_path / "records.jsonl"
    lower = {"input": "p step 1: a ки", "label": "p step 1: a +"}
    marked = {"input": "what is ки? Step 1: a ки", "label": "what is +? Step 1: a +"}
    records = [*[SHEPHERD] * 7, lower, marked, {"input": "p", "label": "p"}]
    path.write_text("\n".join(json.dumps(record) for record in records))
    imported = read_solutions("math_shepherd", path, max_skipped=0.2)
    assert len(imported.solutions) == 8 and imported.solutions[-1].completions == ("step 1: a",)
    assert [message.partition(": input must be")[0] for message in imported.skipped] == [
        f"import: {path} line 9",
        f"import: {path} line 10",
    ]
    with pytest.raises(UserError, match=r"line 9: .*; 2 of 10 can't be read, source\.max_skipped is 0\.1"):
        read_solutions("math_shepherd", path, max_skipped=0.1)


def test_nothing_of_a_record_that_is_skipped_is_kept(tmp_path):
    half = prm800k(step(completion("a", 1), completion("x", -1), chosen=0), step(completion("b", 7), chosen=0))
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(half) + "\n" + json.dumps(prm800k(step(completion("c", 1), chosen=0))))
    imported = read_solutions("prm800k", path, max_skipped=0.5)
    assert [solution.completions for solution in imported.solutions] == [("c",)] and len(imported.skipped) == 1


@pytest.mark.skipif(not REAL.exists(), reason="no samples of the published files at hand")
def test_records_of_the_published_files_are_read():
    solutions = list(read_solutions("prm800k", REAL / "prm800k.jsonl").solutions)
    assert Counter(len(set(solution.labels)) for solution in solutions) == {1: 18, 2: 15}
    solutions = list(read_solutions("math_shepherd", REAL / "math-shepherd.jsonl").solutions)
    assert solutions[0].labels == (1, 1, 1, 1, 0)
    assert len(solutions) == 7 and all(s.completions[0].startswith("Step 1: ") for s in solutions)
