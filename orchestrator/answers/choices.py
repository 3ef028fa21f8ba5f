"""Answers that are the letter of a choice."""

import re

from orchestrator.core.answers.exact import ExactAnswers

_CHOICE = re.compile(r"[\s(\[]*(?P<letter>[A-Ja-j])(?:[)\].:].*|\s*)", re.DOTALL)


def letter_of(answer: str) -> str | None:
    """`B` of `b`, `(B)`, `B.` and `B) 18`; None of what is no choice."""
    match = _CHOICE.fullmatch(answer)
    return None if match is None else match["letter"].upper()


def _spelled(answer: str) -> str:
    """The letter; an answer that is none as it is, so that it is equal to itself only."""
    return letter_of(answer) or answer


class ChoiceAnswers(ExactAnswers):
    """Equal are answers of the same letter, however it is written."""

    spelled = staticmethod(_spelled)
