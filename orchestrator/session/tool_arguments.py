"""Whether the arguments of a call fit the parameters of its function, by JSON Schema (draft 2020-12). Both come from
strangers: nothing is fetched, no pattern is run, and references end."""

import json
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import SchemaError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

_REFUSED = ("pattern", "patternProperties", "$dynamicRef")  # checking these may take for ever
_BY_NAME = ("properties", "$defs", "definitions", "dependentSchemas")
_DATA = ("const", "enum", "default", "examples")
_MOST_REFERENCES = 2000  # that are followed for one call
_MOST_CHECKS = 100_000  # keywords times values: less than a second
MOST_KEYWORDS = 2000  # of all functions of a request: to check one takes up to half a millisecond


def num_keywords(parameters: Mapping[str, Any]) -> int:
    """How large they are."""
    return sum(1 for _ in _keywords(parameters))


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises ValueError where arguments can't be checked against them."""
    try:
        Draft202012Validator.check_schema(parameters)
    except (SchemaError, RecursionError) as error:
        raise ValueError(f"no JSON schema: {str(error).splitlines()[0]:.200}") from error
    if found := next((each for each in _keywords(parameters) if each in _REFUSED), None):
        raise ValueError(f"{found} can't be checked in what a model has written by itself")


def fit(parameters: Mapping[str, Any], arguments: str) -> bool:
    """Whether they do. `arguments` is what a model wrote as JSON, `parameters` were checked before. What would take
    long to check does not."""
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return False
    if num_keywords(parameters) * _num_values(given) > _MOST_CHECKS:
        return False
    followed = count()

    def reference(validator: Any, where: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if next(followed) >= _MOST_REFERENCES:
            raise RecursionError("too many references")
        yield from Draft202012Validator.VALIDATORS["$ref"](validator, where, instance, schema)

    bounded = extend(Draft202012Validator, {"$ref": reference})
    try:
        return bool(bounded(parameters, registry=Registry()).is_valid(given))
    except (RecursionError, Unresolvable):
        return False


def _num_values(given: Any) -> int:
    left, number = [given], 0
    while left:
        one = left.pop()
        number += 1
        if isinstance(one, dict | list):
            left += one.values() if isinstance(one, dict) else one
    return number


def _keywords(schema: Any) -> Iterator[str]:
    """All that stand in it and in the schemas below it."""
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, Mapping):
            for keyword, value in one.items():
                yield keyword
                if keyword in _BY_NAME and isinstance(value, Mapping):
                    left += value.values()  # its keys are names of the user's own
                elif keyword not in _DATA:
                    left.append(value)
