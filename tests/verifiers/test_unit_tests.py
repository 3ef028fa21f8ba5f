import functools
import json
from collections.abc import Mapping

import pytest

from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Solution
from verifiers import confinement, sandbox
from verifiers.contract import HostSettings, Read, Run, Unreadable
from verifiers.sandbox import SandboxError
from verifiers.unit_tests import UnitTestsHost, UnitTestsOptions, same_output

needs_sandbox = pytest.mark.skipif(
    confinement.supported_machine() is not None, reason=f"no sandbox here: {confinement.supported_machine()}"
)

ADD = "Here it is.\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
WRONG = ADD.replace("+", "-")
IN_A_THREAD = """```python
import sys, threading
def main():
    print(sum(map(int, input().split())))
sys.setrecursionlimit(1 << 25)
threading.stack_size(1 << 26)
thread = threading.Thread(target=main)
thread.start()
thread.join()
```"""
FIXED = """```python
def main():
    print(input())
main()
```
Fixed:
```python
print(sum(map(int, input().split())))
```"""
SUM = "```\nprint(sum(map(int, input().split())))\n```"


@functools.cache
def load(**options: object) -> UnitTestsHost:
    return UnitTestsHost.load(HostSettings(name="unit_tests", model="", options=UnitTestsOptions(**options)))


def judged(text: str, tests: object, beside: Mapping[str, object] = {}, **options: object) -> Read | Unreadable:
    host = load(**options)
    problem = Problem.from_prompt("p", "?", metadata={**beside, **({} if tests is None else {"tests": tests})})
    solution = Solution(problem=problem, steps=(text,), asked=(0,), ended=True)
    [answer] = host.read([Run(key="k", token_ids=(1,), boundaries=(1,), solution=solution)])
    return answer


def score(text: str, tests: object, beside: Mapping[str, object] = {}, **options: object) -> float:
    answer = judged(text, tests, beside, **options)
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
        (ADD.replace("\n```\n", "\nimport sys; sys.exit(0)\n```\n"), "assert add(1, 2) == 3", 0.0),
        (ADD.replace("\n```\n", "\nexit()\n```\n"), "assert add(1, 2) == 3", 0.0),
        ("x = '''", "assert add(1, 2) == 3", 0.0),
        ("if False:\\", "assert add(1, 2) == 3", 0.0),
        (SUM, {"input": "1 2 3\n", "output": "6\n"}, 1.0),
        (SUM, [{"input": "1 2 3", "output": "6"}, {"input": "4", "output": "5"}], 0.0),
        (
            "[BEGIN]\ndef add(a, b):\n  return a + b\n[DONE]\nassert add(1, 1) == 3",
            "assert add(1, 2) == 3",
            1.0,
        ),  # MBPP
        ("python\ndef add(a, b):\n  return a + b", "assert add(1, 2) == 3", 1.0),
        ("Here is the solution:\n\nprint(sum(map(int, input().split())))", {"input": "1 2", "output": "3"}, 1.0),
        (IN_A_THREAD, {"input": "1 2", "output": "3"}, 1.0),
        (FIXED, {"input": "1 2", "output": "3"}, 1.0),
        ("print(6)\nraise SystemExit", {"input": "", "output": "6"}, 1.0),  # how such programs may end
        ("print(6)\nexit()\nprint(7)", {"input": "", "output": "6"}, 1.0),
        ("print(6)\nquit(0)", {"input": "", "output": "6"}, 1.0),
        ("print(6)\nexit(1)", {"input": "", "output": "6"}, 0.0),
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
    tests = [f"assert add(1, {n}) == 1 + {n}" for n in range(4)]
    assert score(WRONG, tests) == 0.0
    assert [sources["tests"] for sources in ran if len(sources) == 3] == tests[:2]  # setup, solution and tests


@needs_sandbox
@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, r"no metadata field 'tests', it has none; data.metadata_fields: \[tests\]"),
        ([], "must hold at least one test, got none"),
        ("assert add(1, 2) ==", "a test in the metadata field 'tests' is not Python"),
        (["assert add", 7], r"must be program text, \{input, output\} texts or .* lists, got int"),
        ({"input": 1, "output": 2}, "got the keys input, output"),
        ("pass", "asserts nothing: an empty program passes it"),
        ("# assert add(1, 2) == 3", "asserts nothing"),
        ("def test_add():\n    assert add(1, 2) == 3", "asserts nothing"),
        (["assert add(1, 2) == 3", "assert True"], "asserts nothing"),
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
    assert judged(ADD, "assert add") == Unreadable(reason="unit_tests: the machine is on fire")


def test_without_a_sandbox_the_verifier_does_not_load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(confinement, "supported_machine", lambda: "wanted 64-bit Linux, got Darwin on arm64")
    with pytest.raises(ValueError, match=r"unit_tests: programs can't be run safely here: wanted .* Linux, got Darwin"):
        UnitTestsHost.load(HostSettings(name="unit_tests", model="", options=UnitTestsOptions()))


def test_outputs_are_equal_but_for_space_at_the_ends():
    assert same_output("1 \n2\n\n", "1\n2")
    assert same_output(" 1", "1")
    assert same_output("0.50 2", "0.5 2.0")
    assert not same_output("1\n2", "2\n1")
    assert not same_output("1 2", "12")
    assert not same_output("nan", "1")
    assert not same_output("sNaN", "1")
    assert not same_output("", "1")
    assert not same_output("1\n\n2", "1\n2")


HUMAN_EVAL = {  # HumanEval/0, shortened
    "prompt": "from typing import List\n\n\ndef has_close_elements(numbers: List[float], threshold: float) -> bool:\n"
    '    """ Check if in given list of numbers, are any two closer to each other than given threshold.\n'
    "    >>> has_close_elements([1.0, 2.0, 3.0], 0.5)\n    False\n" + '    """\n',
    "entry_point": "has_close_elements",
    "tests": "\n\nMETADATA = {\n    'author': 'jt',\n    'dataset': 'test'\n}\n\n\ndef check(candidate):\n"
    "    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True\n"
    "    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.05) == False\n",
}
CLOSE_BODY = "    ordered = sorted(numbers)\n    return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))\n"
CLOSE = "def has_close_elements(numbers: List[float], threshold: float) -> bool:\n" + CLOSE_BODY  # List: of the prompt
MBPP = {  # MBPP 602 as published, and a setup of one of the others
    "tests": ['assert first("abcabc") == "a"', 'assert first("abc") == None', 'assert first("123123") == DEPTH'],
    "test_setup_code": "DEPTH = '1'",
}
FIRST = "def first(s):\n    for c in s:\n        if s.count(c) > 1:\n            return c"
LCB_STDIN = [
    {"input": "6\nabc\nacb\n", "output": "YES\nNO\n", "testtype": "stdin"},
    {"input": "1\nabc\n", "output": "YES\n", "testtype": "stdin"},
]
YES_NO = "for line in list(sys.stdin)[1:]:\n    print('YES' if line.strip() == 'abc' else 'NO')"
LCB_FUNCTIONAL = [{"input": "[3, 1, 2]\n2", "output": "[1, 2]", "testtype": "functional"}]
SMALLEST = "class Solution:\n    def smallest(self, nums: List[int], k):\n        return tuple(nsmallest(k, nums))"
APPS_STDIN = {"inputs": ["3\n", ["4"]], "outputs": ["9\n", ["16"]]}
APPS_CALLS = {"fn_name": "square", "inputs": [[3], [4]], "outputs": [[9], 16]}


@needs_sandbox
@pytest.mark.parametrize(
    ("right", "wrong", "record"),
    [
        (CLOSE, CLOSE.replace("<", ">"), HUMAN_EVAL),
        (CLOSE_BODY, CLOSE_BODY.replace("<", ">"), HUMAN_EVAL),  # as base models continue the prompt
        (FIRST, FIRST.replace("> 1", "> 0"), MBPP),
        (YES_NO, YES_NO.replace("NO", "YES"), {"tests": json.dumps(LCB_STDIN)}),
        (YES_NO, YES_NO.replace("NO", "YES"), {"tests": LCB_STDIN}),
        (
            SMALLEST,
            SMALLEST.replace("(k,", "(1,"),
            {"tests": json.dumps(LCB_FUNCTIONAL), "metadata": '{"func_name": "smallest"}'},
        ),
        ("print(int(input()) ** 2)", "print(int(input()) ** 3)", {"tests": json.dumps(APPS_STDIN)}),
        ("def square(x): return x * x", "def square(x): return x", {"tests": json.dumps(APPS_CALLS)}),
        (
            "class Solution:\n    def square(self, x): return x * x",
            "class Solution:\n    def square(self, x): return x",
            {"tests": APPS_CALLS},
        ),
    ],
    ids=["HumanEval", "body", "MBPP", "LiveCodeBench", "parsed", "functional", "APPS", "function", "method"],
)
def test_records_of_published_data_sets_are_judged(right: str, wrong: str, record: Mapping[str, object]):
    assert score(right, record["tests"], record) == 1.0
    assert score(wrong, record["tests"], record) == 0.0
    for nothing in ("", "pass", "```python\npass\n```", "exit()", "<think>\n```python\n" + right + "\n```"):
        assert score(nothing, record["tests"], record, partial=True) == 0.0


@needs_sandbox
def test_a_function_that_only_python_has_does_not_pass_for_the_solutions():
    calls = {"fn_name": "gcd", "inputs": [[4, 6]], "outputs": [2]}
    for name in ("gcd", "sum"):  # imported before the solution runs; built in
        assert score("pass", {**calls, "fn_name": name, "inputs": [[[2]]] if name == "sum" else [[4, 6]]}) == 0.0
    assert score("from math import gcd", calls) == 1.0


@needs_sandbox
def test_what_a_test_sets_up_and_fails_is_no_fault_of_the_solution():
    answer = judged(FIRST, MBPP["tests"], {"test_setup_code": "import nowhere"})
    assert isinstance(answer, Unreadable)
    assert "sets up before the solution fails: ModuleNotFoundError" in answer.reason


@needs_sandbox
@pytest.mark.parametrize(
    "text",
    [
        "First a helper:\n```python\nbase = 1\ndef step(a):\n    return a + base\n```\n"
        "then\n```python\ndef add(a, b):\n    return step(a) + b - 1\n```",
        ADD + "\nExample usage:\n```python\nresult = add(int(input()), 2)\nprint(result)\n```",
        ADD + "\nTests:\n```python\ndef test_add():\n    assert add(1, 1) == 3\ntest_add()\n```",
        WRONG + "\nThat is wrong. Corrected:\n" + ADD,
        "<think>\n" + WRONG + "\n</think>\n" + ADD,
        WRONG + "\n</think>\n" + ADD,
        "def add(a, b):\n    return a + b\n\nThis adds the two numbers.",
        "Sure! Here is the function:\n\ndef add(a, b):\n    return a + b",
    ],
)
def test_the_program_is_found_wherever_it_is_written(text: str):
    assert score(text, ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]) == 1.0


@needs_sandbox
def test_a_program_that_reads_is_not_displaced_by_an_example():
    program = "def double(n):\n    return 2 * n\nprint(double(int(input())))"
    text = f"```python\n{program}\n```\nFor example\n```python\nprint(double(3))\n```\nprints\n```\n6\n```"
    assert score(text, {"input": "7", "output": "14"}) == 1.0


HUMAN_EVAL = {"prompt": 'def add(a, b):\n    """Adds."""\n', "entry_point": "add"}


@needs_sandbox
@pytest.mark.parametrize(
    "text",
    [
        "    c = a + b\n    return c\n",
        "```python\n    c = a + b\n    return c\n```",
        "The body:\n```python\nc = a + b\nreturn c\n```",
        "c = a + b\n    return c\n",
    ],
)
def test_the_body_of_a_function_goes_on_where_its_prompt_ends(text: str):
    answer = judged(text, "assert add(1, 2) == 3", HUMAN_EVAL)
    assert isinstance(answer, Read) and answer.scores[0].mean == 1.0


@needs_sandbox
def test_a_first_attempt_that_imports_what_the_tests_use_is_not_the_program():
    text = """```python
import math
def area(r):
    return r
```
Fixed:
```python
from math import pi
def area(r):
    return pi * r * r
```"""
    assert score(text, "import math\nassert math.isclose(area(2), math.pi * 4)") == 1.0
