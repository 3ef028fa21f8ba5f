"""The reference answer of a code problem: its unit tests, and what they need of its record, as one text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from verifiers.code_tests import Test, parse_tests
from verifiers.rules import NoVerdict

_TESTS = "tests"
_NEEDED = ("prompt", "entry_point", "test_setup_code", "test_imports", "fn_name", "metadata")
"""Fields beside the tests that `verifiers.code_tests` and `verifiers.code_blocks` look at."""


def to_reference(tests: Any, name: str, record: Mapping[str, Any]) -> str:
    """`name` is the tests' field. Raises NoVerdict for tests that can't be read."""
    beside = {key: record[key] for key in _NEEDED if record.get(key) is not None}
    parse_tests(tests, name, beside)
    try:
        return json.dumps({_TESTS: tests, **beside})
    except TypeError as error:
        raise NoVerdict(f"the fields {', '.join(beside)} must hold what JSON can, {error}") from None


def from_reference(text: str) -> tuple[Sequence[Test], Mapping[str, Any]]:
    """The tests, and the fields beside them. Raises NoVerdict."""
    beside = json.loads(text)
    return parse_tests(beside.pop(_TESTS), _TESTS, beside), beside
