r"""Where an answer can stand in a text: small rules by name. Pure.

A rule gives every place where it finds an answer, in order. To add one: a function from text to `Found`s and a line in
`RULES`. The rules `gsm8k_strict`, `gsm8k_flexible` and `minerva` behave like the filters of that name in EleutherAI's
lm-evaluation-harness (tasks gsm8k and minerva_math).
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from orchestrator.core.answers.normalise import closing_brace, normalise
from orchestrator.core.answers.words import ANSWER, ANSWER_IS, CHOICE, IS_AT_END


class Found(NamedTuple):
    """An answer as it is written, and where it begins."""

    start: int
    answer: str


_BOX = re.compile(r"(?:\\+f?boxed|\\+fbox|\x08oxed)\s*(?P<brace>\{)?")
_UNBRACED = re.compile(r"[^\s$\\{}]+|\\[dt]?frac\s*\d\s*\d|\\\w+(?:\s*\{[^{}]*\})*")
_BETWEEN_BOXES = re.compile(r"(?:,|;|\band\b|\bor\b|\\text\{\s*(?:and|or)\s*\}|\bund\b|\bet\b|\bo\b|\by\b|和|或|、|,)")
_ADJACENT = re.compile(r"[\s$]*(?:\\q?quad|\\[,;: ])?[\s$]*")
_SENTENCE_ENDS = re.compile(r"[.!?](?:\s|$)|\n\s*\n")
_NEW_CLAIM = re.compile(
    r"\b(?:which|gives?|so|thus|then|hence|therefore|wait|not?|but|actually|instead|rather|equivalently|i\.e|that is|implies)\b|"
    r"=>|\\implies|\\Rightarrow",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"[?_.\s]+|\\[lc]?dots|(?:(?:your|the)\s+)?(?:final\s+)?(?:answer|ans|result)|\[.*answer.*\]", re.IGNORECASE)
_MOST_OF_A_SENTENCE = 2000  # characters that are looked at
_MOST_BETWEEN = 60  # characters between two boxes of one sentence

_HASH = re.compile(r"^[ \t>*]*#{4}[ \t]*(?P<answer>\S[^\n]*)$", re.MULTILINE)
_VALUE_FIRST = re.compile(r"[\s$*\\(\[{]*[-+]?[$£€]?(?:\.?\d|\\(?:[dt]?frac|sqrt|pi|boxed))")
_HEADING = re.compile(r"\d+[.):]\s+[^\W\d_]")

_LINE = re.compile(
    rf"(?:^|(?<=[\s*_#>{{(|.]))(?P<label>{ANSWER})(?P<after>[ \t]*(?:\([^()\n]{{1,40}}\))?[ \t*_`}}]*)"
    r"(?P<separator>[:=]|-{1,2}>|=>|[→⇒➡]|\bis\b[ \t]*:|(?<=[ \t])[-—](?=[ \t])|(?<=\bans)\.|(?<=คำตอบ)คือ)"
    r"(?:[ \t]*[*_`}]+(?=\s|$))?(?P<answer>[^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_HEADED = re.compile(
    rf"^[ \t>]*(?:#+[ \t]*|\*\*[ \t]*|__[ \t]*|\\(?:sub)*section\*?\{{)(?P<label>{ANSWER})[ \t*_:#}}]*$",
    re.IGNORECASE | re.MULTILINE,
)
_A = re.compile(r"^[ \t>*_]*A[ \t*_]*:[ \t*_]*\n?(?P<answer>[^\s][^\n]*)$(?!\s*^[ \t>*_]*B[ \t*_]*[:.)])", re.MULTILINE)
_JSON = re.compile(r"\"(?:final_?)?answer\"\s*:\s*(?:\"(?P<text>(?:[^\"\\]|\\.)*)\"|(?P<value>[-+\d.eE]+))", re.IGNORECASE)
_TAGGED = re.compile(r"<(answer|final_answer|solution)>(?P<answer>.*?)</\1>", re.IGNORECASE | re.DOTALL)
_IS = re.compile(ANSWER_IS, re.IGNORECASE)
_STOPS = re.compile(
    r"(?<!i\.e)(?<!e\.g)[.!?。！？](?=\s|$|[*_)\]}\"'$])(?![.])|(?<=[。！？])|\n|"
    r",?\s+(?:because|since|as\s+(?:we|the|it|required|desired|expected|claimed|needed|stated|shown|given)|which|where|so\s|thus|hence|therefore|when|if\s|given|for\s+(?:the|all))\b|"
    r"\s+(?:I hope it is correct)",
    re.IGNORECASE,
)
_LINE_STOPS = re.compile(r"(?<=[\w)}$%\]*])[.!?](?=\s+[A-Z\\])|[。！？]|\s+I hope it is correct", re.IGNORECASE)
_VERB_AT_END = re.compile(rf"(?:{IS_AT_END})[\s.。]*$")
_THAT_IS = re.compile(r".*\b(?:i\.e\.|that is,|namely)[,\s]*(?=\S)", re.DOTALL)
_WHICH_IS = re.compile(r",?\s*(?:which|that)\s+(?:is|equals|gives|comes\s+(?:out\s+)?to)\s+", re.IGNORECASE)
_VALUE = re.compile(r"[\d\\$π∞√]|^\W*[A-Za-z]\W*$")
_REMARK = re.compile(r"(?<=\S)\s+\((?!mod\b)[^()\\]*[^\W\d_]{3}[^()\\]*\)(?=[\s*_$.]*$)")
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])[-+])?\$?(?:(?<![\d.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|(?:\d+\.\d+|\.\d+|\d+)(?:/\d+(?!\d*\.\d))?)"
)
_CODE = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n(?P<answer>.*?)(?:^[ \t]*(?P=fence)|\Z)", re.MULTILINE | re.DOTALL)
_REFERS = re.compile(
    r"(?:please\s+)?(?:see|as|shown|given|stated|refer|same as|\(?(?:the\s+)?(?:box(?:ed)?|number|value|expression|result|answer)\s+)"
    r".*\b(?:above|below|before|earlier|previous\w*|box(?:ed)?)\W*|above|below|not\b.*|n/?a|\?+|_+|\.{2,}",
    re.IGNORECASE,
)
_JUDGEMENT = re.compile(
    r"(?:indeed\s+|also\s+|therefore\s+)?(?:in)?(?:correct|right|wrong|consistent|reasonable|valid|clear|obvious|verified|confirmed|found|unique|given|provided|unknown)\b.*",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_WORDS_OF_PROSE = 5


def boxed(text: str) -> Iterator[Found]:
    r"""`\boxed{...}` and its kin; boxes that one sentence joins are one answer. A box that never closes is none."""
    spans: list[tuple[int, int, str]] = []
    for match in _BOX.finditer(text):
        if spans and match.start() < spans[-1][1]:
            continue  # a box in a box
        if match["brace"]:
            end = closing_brace(text, match.end())
            if end is None:
                continue
            inside, stop = text[match.end() : end], end + 1
        else:
            bare = _UNBRACED.match(text, match.end())
            if bare is None:
                continue
            inside, stop = bare[0].rstrip(".,;:"), bare.end()
        value = normalise(inside)
        if value is not None and _PLACEHOLDER.fullmatch(value) is None:
            spans.append((match.start(), stop, inside))
    joined: list[list[tuple[int, int, str]]] = []
    for span in spans:
        if joined and _are_joined(text[joined[-1][-1][1] : span[0]]):
            joined[-1].append(span)
        else:
            joined.append([span])
    for group in joined:
        yield Found(group[0][0], ", ".join(dict.fromkeys(inside.strip() for _, _, inside in group)))


def _are_joined(between: str) -> bool:
    if len(between) > _MOST_BETWEEN or _SENTENCE_ENDS.search(between) or _NEW_CLAIM.search(between):
        return False
    return _BETWEEN_BOXES.search(between) is not None or _ADJACENT.fullmatch(between) is not None


def hash_line(text: str) -> Iterator[Found]:
    """GSM8K's `#### 18`. A heading of that level is none."""
    for match in _HASH.finditer(text):
        answer = match["answer"]
        ends = not text[match.end() :].strip() and not answer.rstrip().endswith(":")
        if (ends or (_VALUE_FIRST.match(answer) and not _HEADING.match(answer))) and not is_prose(answer):
            yield Found(match.start(), answer)


def answer_line(text: str) -> Iterator[Found]:
    """`Answer: 18` in any case, markup and script, on the line or below it; `A: 18`; `<answer>18</answer>`."""
    for match in _LINE.finditer(text):
        answer = match["answer"]
        if normalise(answer) is None or re.fullmatch(r"[\s*_`$#|]*\\?[\[(]?[\s*_`$]*", answer):
            answer = _below(text, match.end())
        yield Found(match.start(), _to_stop(answer, _LINE_STOPS))
    for match in _HEADED.finditer(text):
        yield Found(match.start(), _to_stop(_below(text, match.end()), _LINE_STOPS))
    for match in _A.finditer(text):
        yield Found(match.start(), _to_stop(match["answer"], _LINE_STOPS))
    for match in _TAGGED.finditer(text):
        yield Found(match.start(), match["answer"])
    for match in _JSON.finditer(text):
        yield Found(match.start(), match["value"] or match["text"])


def _below(text: str, end: int) -> str:
    """The next line with something on it; of displayed mathematics, all of it."""
    rest = text[end:].lstrip()
    for begin, close in (("$$", "$$"), ("\\[", "\\]")):
        if rest.startswith(begin) and (stop := rest.find(close, 2)) > 0:
            return rest[2:stop]
    return rest.split("\n", 1)[0]


def sentence(text: str) -> Iterator[Found]:
    """`The answer is 18, because ...`, `the correct option is (B).`"""
    for match in _IS.finditer(text):
        rest = text[match.end() : match.end() + _MOST_OF_A_SENTENCE].lstrip(" \t:*_}")
        for begin, close in (("$$", "$$"), ("\\[", "\\]"), ("$", "$"), ("\\(", "\\)")):
            stop = rest.find(close, len(begin))
            if rest.startswith(begin) and stop > 0 and not rest.startswith("$", len(begin)):
                after = _to_stop(rest[stop + len(close) :], _STOPS)
                yield Found(match.start(), rest[: stop + len(close)] + (after if _continues(after) else ""))
                break
        else:
            rest = rest.lstrip("\n ")
            answer = _to_stop(rest, _STOPS)
            explained = _WHICH_IS.match(rest, len(answer))
            if explained is not None and not _VALUE.search(answer):
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
    return _THAT_IS.sub("", _REMARK.sub("", _VERB_AT_END.sub("", text)))


def last_number(text: str) -> Iterator[Found]:
    """Every number; the last counts."""
    return (Found(match.start(), match[0]) for match in _NUMBER.finditer(text))


def choice(text: str) -> Iterator[Found]:
    """A choice letter: `(B)`, `B)`, `**B.**`, `E: words`, alone or at the end of a sentence that names a choice."""
    return (Found(match.start(), next(filter(None, match.groups()))) for match in CHOICE.finditer(text))


def code(text: str) -> Iterator[Found]:
    """The content of fenced blocks."""
    return (Found(match.start(), match["answer"]) for match in _CODE.finditer(text))


def bare(text: str) -> Iterator[Found]:
    """The whole text, where it is one value and nothing else."""
    stripped = text.strip()
    if "\n" in stripped or _BOX.search(stripped) is not None:
        return
    if _BARE.fullmatch(stripped) or not _WORD.search(re.sub(r"\\text\w*\{[^{}]*\}", "", stripped)):
        yield Found(0, stripped)


_BARE = re.compile(
    r"[\s$*\\(\[]*(?:[-+]?[$£€]?[\d.,]*\d[\d.,]*(?:/\d+)?\s?(?:%|\\%|[^\W\d_]{1,12})?|\\[dt]?frac\s*\{[^{}]+\}\s*\{[^{}]+\}|\(?[A-J]\)?)"
    r"[\s$*.)\]\\]*"
)


def stated(text: str) -> Iterator[Found]:
    """What the text itself calls its answer: the last box, `####`, answer line or sentence. A box is displaced by another
    value only, not by "Answer: see above" or "the answer is positive"."""
    boxes = list(boxed(text))
    others = [found for rule in (hash_line, answer_line, sentence) for found in rule(text) if _is_answer(found.answer)]
    if boxes:
        last = boxes[-1]
        others = [
            found
            for found in others
            if found.start > last.start
            and not is_prose(found.answer)
            and (_VALUE.search(found.answer) or not _VALUE.search(last.answer))
        ]
    return iter(sorted([*boxes, *others], key=lambda found: found.start))


def stated_number(text: str) -> Iterator[Found]:
    """What the text calls its answer, where there is a number in it; of a sentence, its last number."""
    for found in stated(text):
        numbers = list(last_number(found.answer))
        if numbers:
            yield numbers[-1] if is_prose(found.answer) else found


def _is_answer(answer: str) -> bool:
    """Not a reference to some other place, and not a box that never closes."""
    plain = normalise(answer)
    if plain is None or _BOX.search(answer) is not None:
        return False
    return not (_REFERS.fullmatch(plain.strip("()")) or _PLACEHOLDER.fullmatch(plain) or _JUDGEMENT.fullmatch(plain))


def is_prose(answer: str) -> bool:
    """Whether it is a sentence rather than a value."""
    return len(_WORD.findall(re.sub(r"\\text\w*\{[^{}]*\}", "", answer))) >= _WORDS_OF_PROSE


_GSM8K_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_GSM8K_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_MINERVA = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")


def gsm8k_strict(text: str) -> Iterator[Found]:
    """lm-evaluation-harness, gsm8k, `strict-match`: the first `#### NUMBER`."""
    match = _GSM8K_STRICT.search(text)
    return iter([] if match is None else [Found(match.start(), match[1])])


def gsm8k_flexible(text: str) -> Iterator[Found]:
    """lm-evaluation-harness, gsm8k, `flexible-extract`: the last number."""
    return (Found(match.start(), (match[1] or match[2])) for match in _GSM8K_FLEXIBLE.finditer(text))


def minerva(text: str) -> Iterator[Found]:
    """lm-evaluation-harness, minerva_math: the first `Final Answer: The final answer is ... I hope it is correct.`"""
    match = _MINERVA.search(f"{text}I hope it is correct.")
    return iter([] if match is None else [Found(match.start(), match[1])])


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
    "bare": bare,
    "gsm8k_strict": gsm8k_strict,
    "gsm8k_flexible": gsm8k_flexible,
    "minerva": minerva,
}
