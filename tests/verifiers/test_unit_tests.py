import pytest

from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Solution
from verifiers import confinement, sandbox
from verifiers.contract import HostSettings, Read, Run, Unreadable
from verifiers.rules import NoVerdict
from verifiers.sandbox import SandboxError
from verifiers.unit_tests import (
    Assertions,
    Exchange,
    UnitTestsHost,
    UnitTestsOptions,
    extract_code,
    parse_tests,
    same_output,
)

needs_sandbox = pytest.mark.skipif(
    confinement.supported_machine() is not None, reason=f"no sandbox here: {confinement.supported_machine()}"
)

ADD = "Here it is.\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
WRONG = ADD.replace("+", "-")
SUM = "```\nprint(sum(map(int, input().split())))\n```"


def judged(text: str, tests: object, **options: object) -> Read | Unreadable:
    host = UnitTestsHost.load(HostSettings(name="unit_tests", model="", options=UnitTestsOptions(**options)))
    problem = Problem.from_prompt("p", "?", metadata={} if tests is None else {"tests": tests})
    solution = Solution(problem=problem, steps=(text,), asked=(0,), ended=True)
    [answer] = host.read([Run(key="k", token_ids=(1,), boundaries=(1,), solution=solution)])
    return answer


def score(text: str, tests: object, **options: object) -> float:
    answer = judged(text, tests, **options)
    assert isinstance(answer, Read), answer
    return answer.scores[0].mean


@needs_sandbox
@pytest.mark.parametrize(
    ("text", "tests", "mean"),
    [
        (ADD, "assert add(1, 2) == 3", 1.0),
        (WRONG, "assert add(1, 2) == 3", 0.0),
        (ADD, ["assert add(1, 2) == 3", "assert add(0, 0) == 0"], 1.0),
        (WRONG, ["assert add(0, 0) == 0", "assert add(1, 2) == 3"], 0.0),
        (ADD, "def check(candidate):\n    assert candidate(1, 2) == 3\ncheck(add)", 1.0),  # HumanEval, called
        ("def add(a, b): return a + b\nif __name__ == '__main__': input()", "assert add(1, 1) == 2", 1.0),
        ("I can't say.", "assert add(1, 2) == 3", 0.0),
        ("", "assert add(1, 2) == 3", 0.0),
        (ADD + "\n```python\nimport sys; sys.exit(0)\n```", "assert add(1, 2) == 3", 0.0),
        ("x = '''", "assert add(1, 2) == 3", 0.0),
        ("if False:\\", "assert add(1, 2) == 3", 0.0),
        (SUM, {"input": "1 2 3\n", "output": "6\n"}, 1.0),
        (SUM, [{"input": "1 2 3", "output": "6"}, {"input": "4", "output": "5"}], 0.0),
        ("print(6)\nraise SystemExit", {"input": "", "output": "6"}, 1.0),  # how such programs may end
        ("print(6)\nraise SystemExit(1)", {"input": "", "output": "6"}, 0.0),
        ("if __name__ == '__main__':\n    print(open(0).read())", {"input": "6", "output": "6"}, 1.0),
    ],
)
def test_a_program_scores_one_when_it_passes_all_its_tests(text: str, tests: object, mean: float):
    assert score(text, tests) == mean


@needs_sandbox
def test_partial_credit_is_the_share_of_tests_that_pass():
    tests = [
        "assert add(0, 0) == 0",
        "assert add(1, 2) == 3",
        "import os; os._exit(add(0, 0))",
        "assert add(2, 0) == 2",
    ]
    assert score(WRONG, tests, partial=True) == 0.5
    assert score(WRONG, tests) == 0.0


@needs_sandbox
def test_a_test_never_sees_what_an_earlier_one_did():
    text = "calls = []\ndef count():\n    calls.append(1)\n    return len(calls)"
    assert score(text, ["assert count() == 1"] * 2) == 1.0


@needs_sandbox
def test_all_or_nothing_ends_at_the_first_failure(monkeypatch: pytest.MonkeyPatch):
    real, ran = sandbox.run, []
    monkeypatch.setattr(sandbox, "run", lambda sources, **how: ran.append(sources) or real(sources, **how))
    assert score(WRONG, ["assert add(0, 0) == 0", "assert add(1, 2) == 3", "pass", "pass"]) == 0.0
    assert [sources.get("tests", "") for sources in ran] == ["", "assert add(0, 0) == 0", "assert add(1, 2) == 3"]


@needs_sandbox
@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, r"no metadata field 'tests', it has none; data.metadata_fields: \[tests\]"),
        ([], "must hold at least one test, got none"),
        ("assert add(1, 2) ==", "a test in the metadata field 'tests' is not Python"),
        (["pass", 7], "must be program text or {input, output} texts, got int"),
        ({"inputs": [], "outputs": []}, "got the keys inputs, outputs"),
    ],
)
def test_tests_that_are_missing_or_broken_are_no_fault_of_the_solution(tests: object, message: str):
    answer = judged(ADD, tests)
    assert isinstance(answer, Unreadable)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(answer.reason)


@needs_sandbox
def test_a_sandbox_that_fails_is_no_fault_of_the_solution(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise SandboxError("the machine is on fire")

    monkeypatch.setattr(sandbox, "check", lambda: None)
    monkeypatch.setattr(sandbox, "run", broken)
    assert judged(ADD, "pass") == Unreadable(reason="unit_tests: the machine is on fire")


def test_without_a_sandbox_the_verifier_does_not_load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(confinement, "supported_machine", lambda: "wanted 64-bit Linux, got Darwin on arm64")
    with pytest.raises(ValueError, match=r"unit_tests: programs can't be run safely here: wanted .* Linux, got Darwin"):
        UnitTestsHost.load(HostSettings(name="unit_tests", model="", options=UnitTestsOptions()))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1\n", "x = 1\n"),
        ("a\n```python\nx = 1\n```\nb\n```py\nx = 2\n```\nc", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints\n```\n1\n```", "x = 1\n"),
        ("```Python title=a\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```\n```text\n1\n```", "x = 1\n"),
        ("```python\nx = 1\nprint(", "x = 1\nprint("),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python\n```", ""),
    ],
)
def test_the_code_is_the_last_python_block(text: str, code: str):
    assert extract_code(text) == code


def test_outputs_are_equal_but_for_space_at_the_ends():
    assert same_output("1 \n2\n\n", "1\n2")
    assert same_output("", "\n")
    assert not same_output("1\n2", "2\n1")
    assert not same_output(" 1", "1")
    assert not same_output("1\n\n2", "1\n2")


def test_tests_are_one_or_a_list():
    assert parse_tests("assert True", "t") == (Assertions(source="assert True"),)
    pair = {"input": "1", "output": "2", "testtype": "stdin"}
    assert parse_tests([pair, "pass"], "t") == (Exchange(input="1", output="2"), Assertions(source="pass"))
    with pytest.raises(NoVerdict, match="not Python"):
        parse_tests("a\0b", "t")
