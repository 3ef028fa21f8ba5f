"""Facts about what a verifier's configuration means."""

from typing import Any

import pytest

from orchestrator.core.config import VerifierConfig
from orchestrator.verifier.resolve import resolve

PATTERN = {"regex": r"=> (\d+)"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("exact_match", {}), ("math_equivalence", {"answer": None}), ("regex", {"pattern": "7", "part": "answer"})],
)
@pytest.mark.parametrize("answer", ["last_number", PATTERN])
def test_a_rule_looks_for_the_answer_where_the_data_has_it(name: str, options: dict[str, Any], answer: Any) -> None:
    resolved = resolve(VerifierConfig(name=name, options=options), answer=answer)
    assert resolved.options.answer == answer
    assert resolve(resolved.config).options == resolved.options  # and an actor, which gets the configuration, too


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("exact_match", {"answer": "boxed"}),
        ("regex", {"pattern": "7"}),  # of the text
        ("unit_tests", {}),
    ],
)
def test_an_option_of_its_own_holds_and_what_reads_no_answer_is_left_alone(name: str, options: dict[str, Any]) -> None:
    config = VerifierConfig(name=name, options=options)
    assert resolve(config, answer="last_number") == resolve(config)


@pytest.mark.parametrize("answer", [None, "auto"])
def test_where_answers_stand_where_a_rule_looks_anyway_its_configuration_stays(answer: str | None) -> None:
    config = VerifierConfig(name="exact_match")
    assert resolve(config, answer=answer).config == config


def test_the_rules_of_an_ensemble_look_there_too() -> None:
    config = VerifierConfig(
        name="ensemble", options={"members": [{"name": "exact_match"}, {"name": "regex", "options": {"pattern": "7"}}]}
    )
    resolved = resolve(config, answer="last_number")
    assert [member.options.answer for member in resolved.members] == ["last_number", None]
    assert resolve(resolved.config).members == resolved.members
