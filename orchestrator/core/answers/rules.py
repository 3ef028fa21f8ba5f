r"""Where an answer can stand in a text: small rules by name. Pure.

A rule gives every place where it finds an answer, in order. To add one: a function from text to `Found`s and a line in
`RULES`.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator

from orchestrator.core.answers.announced import answer_line, sentence
from orchestrator.core.answers.boxes import boxed
from orchestrator.core.answers.found import (
    Found,
    begins_like_a_value,
    is_answer,
    is_judgement,
    is_prose,
    is_value,
    num_words,
)
from orchestrator.core.answers.harness import gsm8k_flexible, gsm8k_strict, minerva
from orchestrator.core.answers.words import CHOICES

_HASH = re.compile(r"^[ \t>*]*#{4}[ \t]*(?P<answer>\S[^\n]{0,2000})$", re.MULTILINE)
_NUMBER_FIRST = re.compile(r"[\s$*\\(\[{]*[-+]?[$£€]?(?:\.?\d|\\(?:[dt]?frac|sqrt|pi|boxed))")
_HEADING = re.compile(r"\d+[.):]\s+[^\W\d_]")
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])[-+])?\$?"
    r"(?:(?<![\d.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|(?:\d+\.\d+|\.\d+|\d+)(?:/\d+(?!\d*\.\d))?)"
)
_CODE = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n(?P<answer>.*?)(?:^[ \t]*(?P=fence)|\Z)", re.MULTILINE | re.DOTALL
)
_PYTHON_LINE = re.compile(
    r"^[ \t]*(?:(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[ \t]*[(:]|import[ \t]+\w|"
    r"from[ \t]+[\w.]+[ \t]+import\b|return\b|print\(|\w+[ \t]*[-+*/]?=[ \t]*\S|"
    r"(?:for|while|if|with|try)\b[^\n]*:[ \t]*(?:#.*)?$)",
    re.MULTILINE,
)
_WITH_UNIT = re.compile(r"[\s$*\\(\[]*[-+]?[$£€]?[\d.,]*\d[\d.,]*(?:/\d+)?\s?(?:%|\\%|[^\W\d_]{1,12})?[\s$*.)\]\\]*")
_MOST_OF_A_VALUE = 200  # characters


def hash_line(text: str) -> Iterator[Found]:
    """GSM8K's `#### 18`. A heading of that level is none."""
    last = len(text.rstrip())
    for match in _HASH.finditer(text):
        answer = match["answer"]
        ends = match.end() >= last and not answer.rstrip().endswith(":")
        if (ends or (_NUMBER_FIRST.match(answer) and not _HEADING.match(answer))) and not is_prose(answer):
            yield Found(match.start(), answer)


def last_number(text: str) -> Iterator[Found]:
    """Every number; the last counts."""
    return (Found(match.start(), match[0]) for match in _NUMBER.finditer(text))


def choice(text: str) -> Iterator[Found]:
    """The letter that the text calls its answer, or else names as a choice, or else any `(B)`, `B)`, `E: word`."""
    matches = next(filter(None, (list(pattern.finditer(text)) for pattern in CHOICES)), [])
    return (Found(match.start(), next(filter(None, match.groups()))) for match in matches)


def code(text: str) -> Iterator[Found]:
    """The content of fenced blocks."""
    return (Found(match.start(), match["answer"]) for match in _CODE.finditer(text))


def program(text: str) -> Iterator[Found]:
    """The whole text, where there is code in it: a fenced block, or a line that looks like Python. The tests say which
    part of it is the program (`verifiers.code_blocks`)."""
    if _CODE.search(text) is not None or _PYTHON_LINE.search(text) is not None:
        yield Found(0, text)


def bare(text: str) -> Iterator[Found]:
    """The whole text, where it is one value and nothing else."""
    value = text.strip()
    if len(value) > _MOST_OF_A_VALUE or "\n" in value or not is_answer(value):
        return
    if num_words(value) == 0 or _WITH_UNIT.fullmatch(value):
        yield Found(0, value)


def stated(text: str) -> Iterator[Found]:
    """What the text itself calls its answer: the last box, `####`, answer line or sentence. What begins like a value is
    displaced by another such only, not by "Answer: see above" or "the answer is less than 20"."""
    boxes = list(boxed(text))
    said = [found for rule in (hash_line, answer_line, sentence) for found in rule(text)]
    outside = _outside_code(text, said)
    said = outside if boxes or outside else said
    others = [found for found in said if is_answer(found.answer)]
    if boxes:
        last = boxes[-1]
        others = [
            found
            for found in others
            if found.start > last.start
            and not is_prose(found.answer)
            and (is_value(found.answer) or not is_value(last.answer))
        ]
    if not boxes and not others:
        return iter([found for found in said if is_judgement(found.answer)])
    values = [*boxes, *(found for found in others if begins_like_a_value(found.answer))]
    last_value = max((found.start for found in values), default=len(text))
    return iter(sorted((found for found in (*boxes, *others) if found.start <= last_value), key=lambda one: one.start))


def _outside_code(text: str, found: list[Found]) -> list[Found]:
    """Those that no fence holds."""
    edges = [edge for match in _CODE.finditer(text) for edge in match.span()]  # in order: inside is after an odd number
    return [one for one in found if bisect_right(edges, one.start) % 2 == 0]


def stated_number(text: str) -> Iterator[Found]:
    """What the text calls its answer, where there is a number in it; of a sentence, its last number."""
    for found in stated(text):
        numbers = list(last_number(found.answer))
        if numbers:
            yield numbers[-1] if is_prose(found.answer) else found


Rule = Callable[[str], Iterator[Found]]

RULES: dict[str, Rule] = {
    "stated": stated,
    "stated_number": stated_number,
    "boxed": boxed,
    "hash": hash_line,
    "answer_line": answer_line,
    "sentence": sentence,
    "last_number": last_number,
    "choice": choice,
    "code": code,
    "program": program,
    "bare": bare,
    "gsm8k_strict": gsm8k_strict,
    "gsm8k_flexible": gsm8k_flexible,
    "minerva": minerva,
}
