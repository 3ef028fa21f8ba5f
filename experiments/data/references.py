"""References that are no plain answer: a choice's letter, unit tests. Each function raises ValueError for a record that
does not fit."""

from collections.abc import Mapping
from typing import Any

from experiments.data import records
from orchestrator.answers import letter_of
from verifiers.code_reference import to_reference
from verifiers.rules import NoVerdict


def choice(record: Mapping[str, Any], name: str) -> str:
    """The letter in a field."""
    text = records.text(record, name)
    letter = letter_of(text)
    if letter is None:
        raise ValueError(f"has a bad {name!r}: wanted the letter of a choice, got {text!r:.60}")
    return letter


def unit_tests(record: Mapping[str, Any], name: str) -> str:
    """The tests in a field and what they need of the record, as one text."""
    if record.get(name) is None:
        records.text(record, name)  # it says what is missing
    try:
        return to_reference(record[name], name, record)
    except NoVerdict as error:
        raise ValueError(f"has bad unit tests: {error}") from None
