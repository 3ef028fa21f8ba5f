"""HumanEval, MBPP and LiveCodeBench in the form that they are published in, and code in files of one's own."""

import base64
import json
import pickle
import zlib

import pytest

from experiments.data.datasets import load_dataset
from experiments.data.graders import answers_of, grader_of
from experiments.data.sets import data_config
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Comparison
from verifiers import confinement
from verifiers.code_reference import from_reference

needs_sandbox = pytest.mark.skipif(
    confinement.supported_machine() is not None, reason=f"no sandbox here: {confinement.supported_machine()}"
)

HUMANEVAL = {
    "task_id": "HumanEval/53",
    "prompt": 'import math\n\ndef add(x: int, y: int):\n    """Add two numbers\n    >>> add(2, 3)\n    5\n    """\n',
    "canonical_solution": "    return x + y\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(2, 3) == 5\n"
    "    assert candidate(7, 5) == 12\n",
    "entry_point": "add",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to add two numbers.",
    "code": "def add(x, y):\n    return x + y",
    "test_list": ["assert add(2, 3) == 5", "assert add(7, 5) == 12", "assert add(0, 0) == zero"],
    "test_setup_code": "zero = 0",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 12,
    "prompt": "Write a function to add two numbers.",
    "code": "",
    "test_imports": ["import math"],
    "test_list": ["assert add(2, 3) == 5"],
}


def packed(value):
    """As LiveCodeBench publishes its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


PUBLIC = [{"input": "2 3\n", "output": "5\n", "testtype": "stdin"}]
PRIVATE = [{"input": "70 5\n", "output": "75\n", "testtype": "stdin"}]
LIVECODEBENCH = {
    "question_title": "Sum",
    "question_content": "Print the sum.",
    "platform": "atcoder",
    "question_id": "abc1",
    "contest_id": "abc",
    "contest_date": "2024-01-01T00:00:00",
    "starter_code": "",
    "difficulty": "medium",
    "public_test_cases": json.dumps(PUBLIC),
    "private_test_cases": packed(json.dumps(PRIVATE)),
    "metadata": "{}",
}
METHOD = {
    **LIVECODEBENCH,
    "starter_code": "class Solution:\n    def add(self, x: int, y: int) -> int:\n        ",
    "public_test_cases": json.dumps([{"input": "2\n3", "output": "5", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "70\n5", "output": "75", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "add"}),
}
OWN = {"problem": "Write add.", "tests": ["assert add(2, 3) == 5"]}


def load(tmp_path, name, *records, **settings):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return load_dataset(data_config({"name": name, "path": str(path), **settings}))


def prompt_of(tmp_path, name, record, **settings):
    [example] = load(tmp_path, name, record, **settings).examples
    return example.problem.messages[0].content


def test_humaneval_shows_the_head_and_the_docstring_as_they_are(tmp_path):
    assert prompt_of(tmp_path, "humaneval", HUMANEVAL) == HUMANEVAL["prompt"]


def test_mbpp_shows_the_task_and_its_tests_as_its_paper_does(tmp_path):
    tests = "\n".join(MBPP["test_list"])
    assert prompt_of(tmp_path, "mbpp", MBPP) == (
        "You are an expert Python programmer, and here is your task: Write a function to add two numbers. "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )
    assert "add two numbers. Your code" in prompt_of(tmp_path, "mbpp", SANITIZED)


def test_livecodebench_shows_the_question_and_where_the_program_begins(tmp_path):
    stdin, method = (prompt_of(tmp_path, "livecodebench", record) for record in (LIVECODEBENCH, METHOD))
    assert "### Question:\nPrint the sum.\n" in stdin and "```python\n# YOUR CODE HERE\n```" in stdin
    assert "Read the inputs from stdin" in stdin and "starter code" not in stdin
    assert f"```python\n{METHOD['starter_code']}\n```" in method and "stdin" not in method
    [example] = load(tmp_path, "livecodebench", LIVECODEBENCH).examples
    assert (example.problem.id, example.problem.difficulty) == ("abc1", 2.0)


@pytest.mark.parametrize(
    ("name", "record", "hidden"),
    [
        ("humaneval", HUMANEVAL, "test"),
        ("livecodebench", LIVECODEBENCH, "private_test_cases"),
        ("jsonl", OWN, "tests"),
    ],
)
def test_no_problem_holds_its_hidden_tests(tmp_path, name, record, hidden):
    settings = {"grader": "code", "answer_field": "tests"} if name == "jsonl" else {}
    [example] = load(tmp_path, name, record, **settings).examples
    assert example.problem.metadata == {}
    assert not any(secret in repr(example.problem) for secret in ("candidate(7", "70 5", "assert"))
    tests, _ = from_reference(example.reference)
    assert any(secret in repr(tests) for secret in ("candidate(7", "70 5", "assert")), "the grader has them"
    with pytest.raises(UserError, match=f"metadata_fields: '{hidden}' holds the tests that grade"):
        load(tmp_path, name, record, **settings, metadata_fields=[hidden])


def test_public_tests_can_be_what_a_verifier_sees(tmp_path):
    [example] = load(tmp_path, "livecodebench", METHOD, metadata_fields=["public_test_cases", "metadata"]).examples
    assert set(example.problem.metadata) == {"public_test_cases", "metadata"}


class Harmful:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("humaneval", {**HUMANEVAL, "test": "def check(candidate:"}, "line 1 has bad unit tests: .* is not Python"),
        ("humaneval", {**HUMANEVAL, "test": None}, "line 1 has a bad 'test': wanted a value, got null"),
        ("humaneval", {**HUMANEVAL, "entry_point": ""}, "line 1 has a bad 'entry_point'"),
        ("humaneval", {"prompt": "p"}, "line 1 has no field 'entry_point', it has prompt"),
        ("mbpp", {**MBPP, "test_list": "assert f()"}, "bad 'test_list': wanted a list of texts, got 'assert f"),
        ("mbpp", {**MBPP, "test_list": []}, "bad 'test_list'"),
        ("livecodebench", {**LIVECODEBENCH, "difficulty": "brutal"}, "bad 'difficulty': wanted easy, medium, hard"),
        ("livecodebench", {**LIVECODEBENCH, "private_test_cases": "x"}, "bad 'private_test_cases': wanted JSON, plain"),
        (
            "livecodebench",
            {**LIVECODEBENCH, "private_test_cases": packed(1)},
            "wanted JSON text in the pickle, got int",
        ),
        ("livecodebench", {**LIVECODEBENCH, "private_test_cases": packed("{")}, "wanted a JSON list of tests"),
        ("livecodebench", {**LIVECODEBENCH, "public_test_cases": "[1]"}, "bad unit tests"),
        ("livecodebench", {**METHOD, "metadata": "{}"}, "bad unit tests: .*wanted the function's name as func_name"),
    ],
)
def test_a_record_of_another_form_is_refused_before_a_model_is_loaded(tmp_path, name, record, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, name, record)


def test_a_pickle_runs_nothing(tmp_path, capsys):
    with pytest.raises(UserError, match=r"it names [\w.]*print, wanted text only"):
        load(tmp_path, "livecodebench", {**LIVECODEBENCH, "private_test_cases": packed(Harmful())})
    assert capsys.readouterr().out == ""


def test_records_with_bad_tests_can_be_skipped(tmp_path):
    bad = {**HUMANEVAL, "task_id": "bad", "test": "x ="}
    dataset = load(tmp_path, "humaneval", bad, HUMANEVAL, skip_bad=True)
    assert [example.problem.id for example in dataset.examples] == ["HumanEval/53"]
    assert "bad unit tests" in dataset.skipped[0]


RIGHT = "Here:\n```python\ndef add(x, y):\n    return x + y\n```\nFor example:\n```python\nprint(add(1, 1))\n```"
WRONG = RIGHT.replace("x + y", "x - y")
SUM = "```python\nprint(sum(map(int, input().split())))\n```"
MEMORISED = "```python\nprint(5)\n```"  # passes what is public


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "record", "texts", "verdicts"),
    [
        ("humaneval", HUMANEVAL, (RIGHT, WRONG, "    return x + y\n", "I can't."), (True, False, True, False)),
        ("mbpp", MBPP, (RIGHT, WRONG, "def add(x, y):\n    return x + y\n[DONE]"), (True, False, True)),
        ("livecodebench", LIVECODEBENCH, (SUM, MEMORISED), (True, False)),
        ("livecodebench", METHOD, (RIGHT, WRONG), (True, False)),
        ("jsonl", OWN, (RIGHT, WRONG), (True, False)),
    ],
)
async def test_a_program_is_right_when_it_passes_its_hidden_tests(tmp_path, name, record, texts, verdicts):
    settings = {"grader": "code", "answer_field": "tests"} if name == "jsonl" else {}
    dataset = load(tmp_path, name, record, **settings)
    async with answers_of(data_config({"name": name, **settings})) as answers:
        grader = grader_of(dataset, answers)
        grades = await grader.grade(dataset.examples[0].problem, [answers.extract(text) for text in texts])
    assert grades == [Comparison(equal=verdict) for verdict in verdicts]


@needs_sandbox
async def test_tests_that_say_nothing_leave_a_program_undecided(tmp_path):
    dataset = load(tmp_path, "jsonl", {**OWN, "tests": "x = 1"}, grader="code", answer_field="tests")
    async with answers_of(data_config({"name": "jsonl", "grader": "code"})) as answers:
        [grade] = await grader_of(dataset, answers).grade(dataset.examples[0].problem, [RIGHT])
    assert grade.equal is None and grade.reason is not None and "an empty program passes" in grade.reason
