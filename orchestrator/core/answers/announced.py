"""Answers that a text announces: answer lines and sentences, in many languages. Pure."""

import re
from collections import deque
from collections.abc import Iterable, Iterator

from orchestrator.core.answers.found import Found, is_value
from orchestrator.core.answers.normalise import normalise
from orchestrator.core.answers.words import ANSWER, ANSWER_IS, IS_AT_END, first_announcement

_WINDOW = 1000  # characters after an announcement that are looked at
_MOST = 100  # announcements of a text that are looked at: the last ones, for the last one counts

_LINE = re.compile(
    rf"(?:^|(?<=[\s*_#>{{(|.]))(?P<label>{ANSWER})(?:[ \t]{{0,20}}\([^()\n]{{1,40}}\))?[ \t*_`}}]{{0,40}}"
    r"(?:=>|-{1,2}>|[:=→⇒➡]|\bis\b[ \t]{0,20}:|(?<=[ \t])[-—](?=[ \t])|(?<=\bans)\.|(?<=คำตอบ)คือ)"
    r"(?:[ \t]*[*_`}]+(?=\s|$))?(?P<answer>[^\n]{0,2000})",
    re.IGNORECASE | re.MULTILINE,
)
_BULLET = re.compile(r"^[-+*•][ \t]+(?=\S)")
_NOTHING = re.compile(r"[\s*_`$#|]*\\?[\[(]?[\s*_`$]*")
_HEADED = re.compile(
    rf"^[ \t>]*(?:#+[ \t]*|\*\*[ \t]*|__[ \t]*|\\(?:sub)*section\*?\{{)(?P<label>{ANSWER})[ \t*_:#}}]*$",
    re.IGNORECASE | re.MULTILINE,
)
_A = re.compile(
    r"^[ \t>*_]*A[ \t*_]*:[ \t*_]*\n?(?P<answer>\S[^\n]{0,2000})$(?!\s*^[ \t>*_]*B[ \t*_]*[:.)])", re.MULTILINE
)
_JSON = re.compile(
    r"\"(?:final_?)?answer\"\s*:\s*(?:\"(?P<text>(?:[^\"\\]|\\.){0,2000})\"|(?P<value>[-+\d.eE]+))", re.IGNORECASE
)
_TAGGED = re.compile(r"<(answer|final_answer|solution)>(?P<answer>.{0,2000}?)</\1>", re.IGNORECASE | re.DOTALL)
_IS = re.compile(ANSWER_IS, re.IGNORECASE)
_STOPS = re.compile(
    r"(?<!i\.e)(?<!e\.g)[.!?。！？](?=\s|$|[*_)\]}\"'$])(?![.])|(?<=[。！？])|\n|"
    r",?\s+(?:because|since|as\s+(?:we|the|it|required|desired|expected|claimed|needed|stated|shown|given)|which|where|"
    r"so\s|thus|hence|therefore|when|if\s|given|for\s+(?:the|all))\b|"
    r",\s+(?:but|not|and\s+(?:the|it|this|that))\b|\s+(?:I hope it is correct)",
    re.IGNORECASE,
)
_LINE_STOPS = re.compile(r"(?<=[\w)}$%\]*])[.!?](?=\s+[A-Z\\])|[。！？]|\s+I hope it is correct", re.IGNORECASE)
_VERB_AT_END = re.compile(rf"(?:{IS_AT_END})[\s.。]*$")
_THAT_IS = re.compile(r"\b(?:i\.e\.|that is,|namely)[,\s]*(?=\S)")
_WHICH_IS = re.compile(r",?\s*(?:which|that)\s+(?:is|equals|gives|comes\s+(?:out\s+)?to)\s+", re.IGNORECASE)
_REMARK = re.compile(r"(?<=\S)\s\((?!mod\b)(?P<remark>[^()\\]*)\)[\s*_$.]*$")
_REMARKS_WORD = re.compile(r"[^\W\d_]{3}")


def answer_line(text: str) -> Iterator[Found]:
    """`Answer: 18` in any case, markup and script, on the line or below it; `A: 18`; `<answer>18</answer>`."""
    for match in _announcing(_LINE, text):
        answer = match["answer"]
        if normalise(answer) is None or _NOTHING.fullmatch(answer):
            answer = _below(text, match.end())
        yield Found(match.start(), _to_stop(answer, _LINE_STOPS))
    for match in _announcing(_HEADED, text):
        yield Found(match.start(), _to_stop(_below(text, match.end()), _LINE_STOPS))
    for match in _A.finditer(text):
        yield Found(match.start(), _to_stop(match["answer"], _LINE_STOPS))
    for match in _TAGGED.finditer(text):
        yield Found(match.start(), match["answer"])
    for match in _JSON.finditer(text):
        yield Found(match.start(), match["value"] or match["text"])


def _announcing(pattern: re.Pattern[str], text: str) -> Iterable[re.Match[str]]:
    begin = first_announcement(text)
    return () if begin is None else deque(pattern.finditer(text, begin), _MOST)


def _below(text: str, end: int) -> str:
    """The next line with something on it; of displayed mathematics, all of it."""
    rest = text[end : end + _WINDOW].lstrip()
    for begin, close in (("$$", "$$"), ("\\[", "\\]")):
        if rest.startswith(begin) and (stop := rest.find(close, 2)) > 0:
            return rest[2:stop]
    return _BULLET.sub("", rest.split("\n", 1)[0])


def sentence(text: str) -> Iterator[Found]:
    """`The answer is 18, because ...`, `the correct option is (B).`"""
    for match in _announcing(_IS, text):
        rest = text[match.end() : match.end() + _WINDOW].lstrip(" \t:*_}")
        for begin, close in (("$$", "$$"), ("\\[", "\\]"), ("$", "$"), ("\\(", "\\)")):
            stop = rest.find(close, len(begin))
            if rest.startswith(begin) and stop > 0 and not rest.startswith("$", len(begin)):
                after = _to_stop(rest[stop + len(close) :], _STOPS)
                yield Found(match.start(), rest[: stop + len(close)] + (after if _continues(after) else ""))
                break
        else:
            if rest.startswith("\n") or "\n" in match[0]:
                rest = _BULLET.sub("", rest.lstrip("\n "))
            answer = _to_stop(rest, _STOPS)
            explained = _WHICH_IS.match(rest, len(answer))
            if explained is not None and not is_value(answer):
                answer = _to_stop(rest[explained.end() :], _STOPS)
            yield Found(match.start(), answer)


def _continues(after: str) -> bool:
    """Whether what follows a formula in its sentence is part of the answer: another value, or a unit."""
    return "$" in after or "\\(" in after or bool(re.match(r"\s*(?:%|[^\W\d_]+\s*$)", after))


def _to_stop(text: str, stops: re.Pattern[str]) -> str:
    """Up to the first stop that is inside no bracket, for a box or a tuple is never cut."""
    for match in stops.finditer(text):
        before = text[: match.start()]
        opened = sum(map(before.count, "([")) - sum(map(before.count, ")]"))
        if opened <= 0 and before.count("{") <= before.count("}") and before.strip(" *_$"):
            text = before
            break
    text = _VERB_AT_END.sub("", text)
    remark = _REMARK.search(text)
    if remark is not None and _REMARKS_WORD.search(remark["remark"]):
        text = text[: remark.start()]
    for explained in _THAT_IS.finditer(text):
        return _to_stop(text[explained.end() :], stops)
    return text
