"""Formats of unit tests, and refusals that name the field."""

import base64
import json
import pickle
import zlib
from typing import Any

import pytest

from verifiers.code_tests import Assertions, Call, Exchange, parse_tests
from verifiers.rules import NoVerdict

CHECK = "def check(candidate):\n    assert candidate(1) == 1\n"
STDIN = {"input": "1", "output": "2", "testtype": "stdin"}
FUNCTIONAL = {"input": '[1]\n{"a": 2}', "output": "[3]", "testtype": "functional"}


def parsed(value: Any, **beside: Any) -> tuple[Assertions | Exchange | Call, ...]:
    return parse_tests(value, "tests", beside)


def test_tests_are_one_or_a_list_and_json_text_or_parsed():
    assert parsed("assert f()") == (Assertions(source="assert f()"),)
    pair = {"input": "1", "output": "2"}
    wanted = (Exchange(input="1", output="2"), Assertions(source="assert f()"))
    assert parsed([pair, "assert f()"]) == parsed(json.dumps([pair, "assert f()"])) == wanted


def test_a_check_is_called_with_the_entry_point_unless_it_is_called_already():
    [test] = parsed(CHECK, entry_point="f", prompt="import math\ndef f(): ...\n")
    assert isinstance(test, Assertions)
    assert (test.source, test.setup) == (f"{CHECK}\ncheck(f)\n", "import math\ndef f(): ...\n")
    assert parsed(CHECK, entry_point="Solution().f", prompt="Write f.")[0].source.endswith("check(Solution().f)\n")
    assert parsed(CHECK + "check(g)", entry_point="f") == (Assertions(source=CHECK + "check(g)"),)


def test_what_mbpp_sets_up_runs_before():
    [test] = parsed(["assert f()"], test_imports=["import math"], test_setup_code="x = 1")
    assert test.setup == "import math\nx = 1"


def test_functional_tests_are_calls():
    for metadata in ({"func_name": "f"}, '{"func_name": "f"}'):
        assert parsed([FUNCTIONAL], metadata=metadata) == (Call(name="f", arguments=[[1], {"a": 2}], accepted=[[3]]),)
    apps = {"fn_name": "f", "inputs": [[1, 2], [3, 4]], "outputs": [[5], 6]}
    assert parsed(json.dumps(apps)) == (
        Call(name="f", arguments=[1, 2], accepted=[[5], 5]),
        Call(name="f", arguments=[3, 4], accepted=[6]),
    )


@pytest.mark.parametrize(
    ("value", "beside", "message"),
    [
        ("", {}, "is empty text"),
        (" \n", {}, "is empty text"),
        (["assert f()", ""], {}, "is empty text"),
        ([], {}, "at least one test, got none"),
        ("[]", {}, "at least one test, got none"),
        ("assert f(", {}, "is not Python"),
        ("a\0b", {}, "is not Python"),
        ("return 1", {}, "is not Python"),
        (None, {}, "got NoneType"),
        (CHECK, {}, "calls it nowhere; wanted the function's name in the field entry_point, which .* lacks"),
        (CHECK, {"entry_point": "f("}, r"got 'f\('"),
        ("assert f()", {"test_imports": "import math"}, "must be a list of texts and a text"),
        ("assert f()", {"test_setup_code": "x ="}, "test_setup_code is not Python"),
        ({**STDIN, "output": "\n"}, {}, "wants no output, so that an empty program passes"),
        ({**STDIN, "testtype": "interactive"}, {}, "must be of testtype stdin or functional, got interactive"),
        (FUNCTIONAL, {}, "wanted the function's name as func_name"),
        (FUNCTIONAL, {"metadata": '{"func_name": "f()"}'}, r"got 'f\(\)'"),
        ({**FUNCTIONAL, "input": "x"}, {"fn_name": "f"}, "is not JSON"),
        ({"inputs": [], "outputs": []}, {}, "as many inputs as outputs and at least one, got 0 and 0"),
        ({"inputs": ["1"], "outputs": []}, {}, "got 1 and 0"),
        ({"inputs": [1], "outputs": ["1"]}, {}, "must be text or a list of lines, got int"),
        ({"inputs": ["1"], "outputs": [""]}, {}, "wants no output"),
        ({"inputs": ["1"], "outputs": [1], "fn_name": "f"}, {}, "each of its inputs must be a list"),
        ({"inputs": [[1]], "outputs": [1], "fn_name": "f.g"}, {}, "got 'f.g'"),
    ],
)
def test_what_can_not_be_run_is_refused_by_name(value: Any, beside: dict[str, Any], message: str):
    with pytest.raises(NoVerdict, match=message):
        parsed(value, **beside)


def test_pickles_are_refused():
    text = base64.b64encode(zlib.compress(pickle.dumps(json.dumps([STDIN])))).decode()
    with pytest.raises(NoVerdict, match="is a compressed pickle"):
        parsed(text)
