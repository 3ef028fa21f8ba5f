"""The reference answer of a code problem: its unit tests, and what they need of its record, as one text.

It is compressed, for the tests of a contest's problem can be megabytes.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from verifiers.code_tests import Test, parse_tests
from verifiers.rules import NoVerdict

_TESTS = "tests"
_NEEDED = ("prompt", "entry_point", "test_setup_code", "test_imports", "fn_name", "metadata")
"""Fields beside the tests that `verifiers.code_tests` and `verifiers.code_blocks` look at."""


def to_reference(tests: Any, name: str, record: Mapping[str, Any]) -> str:
    """`name` is the tests' field. Raises NoVerdict for tests that can't be read."""
    fields = {key: record[key] for key in _NEEDED if record.get(key) is not None}
    parse_tests(tests, name, fields)
    try:
        text = json.dumps({_TESTS: tests, **fields})
    except TypeError as error:
        raise NoVerdict(f"the fields {', '.join(fields)} must hold what JSON can, {error}") from None
    return base64.b64encode(zlib.compress(text.encode())).decode()


def from_reference(text: str) -> tuple[Sequence[Test], Mapping[str, Any]]:
    """The tests, and the fields beside them, of what `to_reference` gave."""
    fields = json.loads(zlib.decompress(base64.b64decode(text)))
    return parse_tests(fields.pop(_TESTS), _TESTS, fields), fields
