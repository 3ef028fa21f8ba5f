"""What a rule finds, and which findings are no answer. Pure."""

import re
from typing import NamedTuple

from orchestrator.core.answers.normalise import normalise

_BOX = re.compile(r"\\(?:f?boxed|fbox)(?![a-zA-Z])")
_TEXT = re.compile(r"\\text\w*\{[^{}]*\}")
_PLACEHOLDER = re.compile(
    r"[?_.\s]+|\\[lc]?dots|(?:(?:your|the)\s+)?(?:final\s+)?(?:answer|ans|result)|\[.*answer.*\]", re.IGNORECASE
)
_REFERENCE = re.compile(
    r"(?:please\s+)?(?:see|as|shown|given|stated|refer|same as|"
    r"\(?(?:the\s+)?(?:box(?:ed)?|number|value|expression|result|answer)\s+)"
    r".*\b(?:above|below|before|earlier|previous\w*|box(?:ed)?)\W*|above|below|not\b.*|n/?a",
    re.IGNORECASE,
)
_JUDGEMENT = re.compile(
    r"(?:indeed\s+|also\s+|therefore\s+)?(?:in)?(?:correct|right|wrong|consistent|reasonable|valid|clear|obvious|"
    r"verified|confirmed|found|unique|given|provided|unknown)\b.*",
    re.IGNORECASE,
)
_JUDGEMENT_ALONE = re.compile(r"(?:in)?(?:correct|valid|consistent)|right|wrong|unknown", re.IGNORECASE)
_VALUE = re.compile(r"[\d\\$π∞√]|^\W*[A-Za-z]\W*$")
_VALUE_FIRST = re.compile(
    r"[\s$*_\\(\[{|]*[-+±]?(?:[$£€¥₹]?\s?\.?\d|\\|[√π∞]|\$|(?:\w+(?:\(\w\))?\s*=)|[A-Za-z]\W*$|\(?[A-J]\))"
)
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_WORDS_OF_PROSE = 5


class Found(NamedTuple):
    """An answer as it is written, and where it begins."""

    start: int
    answer: str


def is_answer(answer: str) -> bool:
    """Whether it is none of: a pointer to some other place, a word about the answer, a box that never closes."""
    plain = normalise(answer)
    if plain is None or _BOX.search(answer) is not None or is_placeholder(plain):
        return False
    return _REFERENCE.fullmatch(plain.strip("()")) is None and _JUDGEMENT.fullmatch(plain) is None


def is_judgement(answer: str) -> bool:
    """Whether it is a word about an answer (`correct`), which can be an answer itself where there is no other."""
    plain = normalise(answer)
    return plain is not None and _JUDGEMENT_ALONE.fullmatch(plain) is not None


def begins_like_a_value(answer: str) -> bool:
    """Whether it begins as values do: with a number, mathematics, a name and `=`, or a letter alone."""
    return _VALUE_FIRST.match(answer) is not None


def is_placeholder(answer: str) -> bool:
    """Whether nothing is filled in: `?`, `...`, `your answer`."""
    return _PLACEHOLDER.fullmatch(answer) is not None


def is_value(answer: str) -> bool:
    """Whether there is mathematics in it, or it is a single letter."""
    return _VALUE.search(answer) is not None


def is_prose(answer: str) -> bool:
    """Whether it is a sentence rather than a value."""
    return num_words(answer) >= _WORDS_OF_PROSE


def num_words(answer: str) -> int:
    r"""How many words it has outside of `\text{...}`."""
    return len(_WORD.findall(_TEXT.sub("", answer)))
