"""Facts about arguments of calls, which a model writes, and their parameters, which a client sends."""

import time
from typing import Any

import pytest

from orchestrator.session.tool_arguments import check_parameters, fit

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "pattern": {"enum": ["pattern"], "default": {"pattern": 1}}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ('{"city": "Oslo"}', True),
        ('{"city": "Oslo", "pattern": "pattern"}', True),
        ('{"city": 1}', False),
        ('{"city": "Oslo", "more": 1}', False),
        ("{}", False),
        ("", False),
        ("Oslo", False),
        ("[" * 100_000, False),
    ],
)
def test_arguments_fit_or_do_not(arguments: str, fits: bool) -> None:
    check_parameters(CITY)
    assert fit(CITY, arguments) is fits


def test_nothing_written_is_no_arguments() -> None:
    assert fit({"type": "object"}, "")


def test_references_within_the_parameters_are_followed() -> None:
    tree = {
        "type": "object",
        "properties": {"next": {"$ref": "#"}, "value": {"$ref": "#/$defs/v"}},
        "$defs": {"v": {"type": "integer"}},
    }
    check_parameters(tree)
    assert fit(tree, '{"next": {"next": {"value": 3}}}')
    assert not fit(tree, '{"next": {"next": {"value": "3"}}}')


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"type": "objekt"}, "no JSON schema: 'objekt'"),
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, "pattern can't be checked"),
        ({"anyOf": [{"patternProperties": {"(a+)+$": {}}}]}, "patternProperties"),
        ({"$defs": {"a": {"items": {"$dynamicRef": "#a"}}}}, "dynamicRef"),
    ],
)
def test_what_can_not_be_checked_is_told(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_parameters(parameters)


def test_a_schema_too_deep_to_look_at_is_told() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(ValueError, match="no JSON schema"):
        check_parameters(deep)


@pytest.mark.parametrize(
    "parameters",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/none"},
        {"$ref": "http://127.0.0.1:9/schema"},  # nothing is fetched
        {
            "$ref": "#/$defs/d0",
            "$defs": {**{f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}, "d40": {}},
        },
    ],
)
def test_references_that_lead_nowhere_or_to_too_much_fit_nothing_soon(parameters: dict[str, Any]) -> None:
    check_parameters(parameters)
    began = time.process_time()
    assert not fit(parameters, "{}")
    assert time.process_time() - began < 10


def test_what_would_take_long_to_check_does_not_fit() -> None:
    many = {"items": {"allOf": [{"type": "integer"}] * 900}}
    check_parameters(many)
    assert fit(many, "[1, 2, 3]")
    assert not fit(many, str([1] * 4000)), "though each value fits"
