r"""Finds the final answer in a solution's text: `\boxed{...}` or `Answer: ...`, whichever comes last.

What it returns is normalised so far that equal answers are mostly equal strings, which is what votes compare.
Mathematical equivalence is the grader's business.
"""

import re

_ANSWER = re.compile(r"Answer:[ \t]*([^\n]+)")
_BOXED = re.compile(r"\\boxed\s*\{")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WHOLE = re.compile(r"(-?\d+)\.0+")


def extract_answer(text: str) -> str | None:
    """The last answer in the text, normalised; None when there is none."""
    found = [(match.start(), match.group(1)) for match in _ANSWER.finditer(text)]
    for match in _BOXED.finditer(text):
        inside = _to_closing_brace(text[match.end() :])
        if inside is not None:
            found.append((match.start(), inside))
    return normalise(max(found)[1]) if found else None


def reference_answer(text: str) -> str:
    """The answer in a reference: what follows GSM8K's `####`, or where a solution says it, or else the whole."""
    end = text.rsplit("####", 1)[-1]
    return extract_answer(end) or normalise(end) or text


def normalise(answer: str) -> str | None:
    """Without surrounding space, dollar signs, thousands separators, a final full stop or a `.0`."""
    answer = answer.strip(" \t$").rstrip(".").strip(" \t$")
    answer = _THOUSANDS.sub("", answer.removeprefix("\\$"))
    whole = _WHOLE.fullmatch(answer)
    return (whole.group(1) if whole else answer) or None


def _to_closing_brace(text: str) -> str | None:
    depth = 1
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:index]
    return None
