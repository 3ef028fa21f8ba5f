r"""An answer without its decoration: `**\(\text{ 18 }\)**.` is `18`. What it means never changes: separators, units,
percent signs and brackets stay, since only an equality (`verifiers.equality`) can tell what they mean."""

import re
from functools import lru_cache

from orchestrator.core.answers.clean import cleaned

_PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("***", "***"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("```", "```"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    ("«", "»"),
    ("「", "」"),
    ("【", "】"),
)
_WRAPPER = re.compile(
    r"\\(?:f?boxed|fbox|text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|emph|mbox|"
    r"hbox|underline|displaystyle|operatorname|color\{\w+\})\s*\{"
)
_OPEN_LEFT = re.compile(r"\\left\s*(?:\\\{|\.|\\lbrace)(?P<inside>.*)\\right\s*\.", re.DOTALL)
_SPACES = re.compile(r"(?<!\\)\\[,!;:> ]|\\q?quad\b|~")  # not the end of a matrix's row
_LONE_BACKSLASH = re.compile(r"(?<!\\)\\\s*$")
_THIN = re.compile(r"(?<=\d)\s*(?:\{,\}|\\[,!;: ])+\s*(?=\d{3}(?!\d))")
_GROUPED = re.compile(r"(?<![\d.,])[-+]?\d{1,3}(?:,\\!\d{3})+(?!\d)")
_ENDS = re.compile(
    r"^[\s:=✅✔✓☑🎉🎯➡→\ufe0f]+|(?:\s|(?<!\\)\\\\|(?<![.])\.(?!\.)|[,;:。、，；：✅✔✓☑🎉🎯\ufe0f]|\\(?:checkmark|blacksquare|square|qed)\b)+$"
)
_LOOSE = re.compile(r"^(?:\*\*|__|\$|\\[(\[])\s*|\s*(?:\*\*|__|\\[)\]]|(?<!\\)\$)$")
_BOLD = re.compile(r"(?<![\w)\]}*])\*\*(?=[^\s*])([^*]+?)\*\*(?![\w({\[\\*])")  # and not 2**3**2
_HALF = re.compile(r"^(?:[`}\"]|\*{1,3}(?!\*))\s*|\s*(?:[`\"]|\*{1,3}|(?<!\\)\})$")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MAX_PEELS = 12
_LONGEST = 4000  # characters: what is longer is no value with a decoration


@lru_cache(maxsize=256)  # rules ask several times about one answer, and searches find it again
def normalise(answer: str) -> str | None:
    """The answer without surrounding space, punctuation and markup; None when nothing is left."""
    answer = cleaned(answer).strip()
    if len(answer) > _LONGEST:
        return " ".join(answer.split())
    answer = answer.replace("\\displaystyle", " ").replace("\\dots", "\\ldots").replace("…", "\\ldots")
    answer = _GROUPED.sub(lambda match: match[0].replace("\\!", ""), answer)
    answer = _BOLD.sub(r"\1", answer)
    answer = _THIN.sub("", answer)  # 1\,940 and 1{,}234: thin spaces and protected commas group digits
    answer = _LONE_BACKSLASH.sub("", _SPACES.sub(" ", answer)).strip()
    for _ in range(_MAX_PEELS):
        peeled = _peeled(answer)
        if peeled == answer:
            break
        answer = peeled
    answer = _SPACES.sub(" ", answer).strip()
    return " ".join(answer.split()) or None


def _peeled(answer: str) -> str:
    """Without its outermost decoration, if it has one."""
    if (opened := _OPEN_LEFT.fullmatch(answer)) is not None:
        return opened["inside"]
    answer = _ENDS.sub("", answer)
    for begin, end in _PAIRS:
        if not (answer.startswith(begin) and answer.endswith(end) and len(answer) > len(begin) + len(end)):
            continue
        inside = answer[len(begin) : len(answer) - len(end)]
        bare = inside.replace("\\$", "")
        if begin not in bare and end not in bare and not (end == "$" and inside.endswith("\\")):
            return inside
    wrapper = _WRAPPER.match(answer)
    if wrapper is not None and closing_braces(answer).get(wrapper.end() - 1) == len(answer) - 1:
        return answer[wrapper.end() : -1]
    if answer.startswith("{") and closing_braces(answer).get(0) == len(answer) - 1:
        return answer[1:-1]
    if _is_loose(answer):
        return _LOOSE.sub("", answer)
    half = _HALF.search(answer)
    if half is not None and _has_no_other_half(answer, half[0].strip()):
        return answer[: half.start()] + answer[half.end() :]
    return answer


def _has_no_other_half(answer: str, mark: str) -> bool:
    if mark == "}":
        return answer.count("}") > answer.count("{")
    return answer.count(mark) == 1


def _is_loose(answer: str) -> bool:
    """Whether half of a pair stands at an end."""
    return (
        any(answer.count(mark) == 1 and (answer.startswith(mark) or answer.endswith(mark)) for mark in ("**", "__"))
        or any(
            answer.count(begin) != answer.count(end) and (answer.startswith(begin) or answer.endswith(end))
            for begin, end in (("\\(", "\\)"), ("\\[", "\\]"))
        )
        or (answer.replace("\\$", "").count("$") == 1 and (answer[0] == "$" or answer[-1] == "$"))
    )


def closing_braces(text: str) -> dict[int, int]:
    """Where each brace closes that does, by where it opens."""
    opened: list[int] = []
    closes: dict[int, int] = {}
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closes[opened.pop()] = match.start()
    return closes
