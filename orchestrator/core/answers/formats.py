"""Which rules find the answers of a data set, in which order. Graders, votes and the endpoint all use one format."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.core.answers.boxes import boxed
from orchestrator.core.answers.clean import cleaned, without_thinking
from orchestrator.core.answers.found import is_prose
from orchestrator.core.answers.harness import gsm8k_strict
from orchestrator.core.answers.normalise import normalise
from orchestrator.core.answers.rules import RULES, hash_line, stated

PRESETS = {
    "auto": ("stated", "bare"),  # any model that says which its answer is
    "math": ("stated", "bare"),
    "gsm8k": ("stated_number", "last_number"),
}
_REGEX = "regex"
CODE_RULES = ("code", "program")
"""They find programs, in which every character counts: what they find is not normalised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """A chain of rules: the first that finds an answer decides, by its last finding. Thinking that ended is passed
    over; thinking that never ends holds no answer."""

    rules: tuple[str, ...]  # names in `RULES`, or `regex:PATTERN`

    @classmethod
    def parse(cls, value: Any) -> Self:
        """From YAML: a rule's or a preset's name, `{regex: PATTERN}` (its first group, or else all of it), or a list of
        these. None: `auto`. Raises ValueError that says what is valid."""
        if value is None:
            value = "auto"
        entries = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if not entries:
            raise ValueError("wanted at least one rule, got an empty list")
        return cls(rules=tuple(rule for entry in entries for rule in _rules(entry)))

    def extract(self, text: str) -> str | None:
        """The final answer, without its decoration; None where there is none."""
        said = without_thinking(text)
        plain = cleaned(said)
        for rule in self.rules:
            if rule in CODE_RULES:
                answers = [
                    code for found in _findings(rule, said) if (code := found.strip("\n")) and not code.isspace()
                ]
            else:
                answers = [answer for found in _findings(rule, plain) if (answer := normalise(found))]
            if answers:
                return answers[-1]
        return None


def _rules(entry: Any) -> tuple[str, ...]:
    if isinstance(entry, Mapping) and set(entry) == {_REGEX} and isinstance(entry[_REGEX], str):
        try:
            re.compile(entry[_REGEX])
        except re.error as error:
            raise ValueError(f"regex must be a regular expression, got {entry[_REGEX]!r}: {error}") from None
        return (f"{_REGEX}:{entry[_REGEX]}",)
    if isinstance(entry, str) and entry in PRESETS:
        return PRESETS[entry]
    if isinstance(entry, str) and entry in RULES:
        return (entry,)
    names = [*PRESETS, *RULES]
    near = difflib.get_close_matches(str(entry), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"got {entry!r}, wanted one of {', '.join(names)}, {{regex: PATTERN}}, or a list of them{hint}")


def _findings(rule: str, text: str) -> list[str]:
    if not rule.startswith(f"{_REGEX}:"):
        return [found.answer for found in RULES[rule](text)]
    matches = re.finditer(rule.removeprefix(f"{_REGEX}:"), text, re.MULTILINE)
    return [match[0] if not match.groups() else match[1] or "" for match in matches]


def reference_answer(text: str) -> str:
    """The answer in a data set's own field: GSM8K's after `####`, the boxed one of a solution, or else the whole."""
    text = cleaned(text)
    if strict := list(gsm8k_strict(text)):
        return normalise(text.rsplit("####", 1)[-1]) or strict[-1].answer
    if lines := list(hash_line(text)):
        return normalise(lines[-1].answer) or text
    if boxes := list(boxed(text)):
        return normalise(boxes[-1].answer) or text
    if is_prose(text) and (found := list(stated(text))):
        return normalise(found[-1].answer) or text
    return normalise(text) or text
