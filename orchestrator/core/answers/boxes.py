r"""Boxes: `\boxed{...}` and its kin. Pure."""

import re
from collections.abc import Iterator
from itertools import pairwise

from orchestrator.core.answers.found import Found, is_placeholder
from orchestrator.core.answers.normalise import closing_braces, normalise

_BOX = re.compile(r"(?:\\+f?boxed|\\+fbox|\x08oxed)\s*(?P<brace>\{)?")  # \x08: a backspace, from "\boxed" in quotes
_UNBRACED = re.compile(r"[^\s$\\{}]+|\\[dt]?frac\s*\d\s*\d|\\\w+(?:\s*\{[^{}]*\})*")
_JOINED = re.compile(r"(?:,|;|\band\b|\bor\b|\\text\{\s*(?:and|or)\s*\}|\bund\b|\bet\b|\bo\b|\by\b|和|或|、)")
_ADJACENT = re.compile(r"[\s$]*(?:\\q?quad|\\[,;: ])?[\s$]*")
_SENTENCE_ENDS = re.compile(r"[.!?](?:\s|$)|\n\s*\n")
_NEW_CLAIM = re.compile(
    r"\b(?:which|gives?|so|thus|then|hence|therefore|wait|not?|but|actually|instead|rather|equivalently|i\.e|that is|"
    r"implies)\b|=>|\\implies|\\Rightarrow",
    re.IGNORECASE,
)
_MOST_BETWEEN = 60  # characters between two boxes of one sentence


def boxed(text: str) -> Iterator[Found]:
    r"""`\boxed{...}` and its kin; boxes that one sentence joins are one answer. A box that never closes is none."""
    spans = list(_spans(text))
    if not spans:
        return
    group = [spans[0]]
    for before, span in pairwise(spans):
        if not _are_joined(text[before[1] : span[0]]):
            yield _as_one(group)
            group = []
        group.append(span)
    yield _as_one(group)


def _spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each box begins and ends, and what is in it. A box in a box is part of that one."""
    closes = closing_braces(text) if "{" in text else {}
    stop = 0
    for match in _BOX.finditer(text):
        if match.start() < stop:
            continue
        if match["brace"]:
            end = closes.get(match.end() - 1)
            if end is None:
                continue
            inside, after = text[match.end() : end], end + 1
        else:
            bare = _UNBRACED.match(text, match.end())
            if bare is None:
                continue
            inside, after = bare[0].rstrip(".,;:"), bare.end()
        value = normalise(inside)
        if value is not None and not is_placeholder(value):
            stop = after
            yield match.start(), stop, inside.strip()


def _as_one(group: list[tuple[int, int, str]]) -> Found:
    return Found(group[0][0], ", ".join(dict.fromkeys(inside for _, _, inside in group)))


def _are_joined(between: str) -> bool:
    if len(between) > _MOST_BETWEEN or _SENTENCE_ENDS.search(between) or _NEW_CLAIM.search(between):
        return False
    return _JOINED.search(between) is not None or _ADJACENT.fullmatch(between) is not None
