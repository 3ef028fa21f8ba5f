r"""What an answer can mean, read from its text without any algebra: numbers with units, words, choices, tuples, sets,
intervals, relations. Pure. What is none of these is a `Formula`, for math-verify.

One text can have two readings: `1,234` is a number and a list. Nothing is decided here: `verifiers.equality` compares.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from verifiers.latex import canonical, split_top, without_spaces
from verifiers.numbers import MATH_NAMES, Number, read_number, read_unit


@dataclass(frozen=True, slots=True)
class Words:
    """Text that is no mathematics: a name, a sentence."""

    words: tuple[str, ...]

    @property
    def number(self) -> "Reading | None":
        """The one number of a sentence that says nothing about its size (`at least 5`)."""
        numbers = [word for word in self.words if word[0].isdigit() or word[0] in "$-"]
        is_sentence = len(self.words) > _LABEL_WORDS or _VERBS & set(self.words)
        if len(numbers) != 1 or not is_sentence or _SIZES & set(self.words):
            return None
        return read_number(numbers[0])


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice letter: `E`, `(E)`, `E: words`."""

    letter: str
    alone: bool  # nothing follows it: it could be a symbol, too


@dataclass(frozen=True, slots=True)
class Formula:
    """For algebra."""

    latex: str
    unit: frozenset[str] = frozenset()  # its words, which stood after it


@dataclass(frozen=True, slots=True)
class Named:
    """`x = 5` or `x \\in S`: a value with its name."""

    name: str
    value: "Reading"
    latex: str


@dataclass(frozen=True, slots=True)
class Several:
    """Values in brackets or between commas. `kind`: list, set, tuple, interval, union, matrix."""

    kind: str
    items: tuple["Reading", ...]
    brackets: str = (
        ""  # of an interval or tuple: `(]`; `,` of a list that reads as a number, too; `letters`: a word, too
    )


Reading = Number | Words | Choice | Formula | Named | Several

_LETTER = re.compile(
    r"(?i:option|choice|answer)?\s*\(?\s*([A-J])\s*\)?(?P<rest>\s*[:.]\s*\S.*|\)\s*[\w\\$].*|\s+-+\s+[^\W\d_]{2}.*|\s*[:.)]?\s*)",
    re.DOTALL,
)
_WORDY = re.compile(r"(?<![\\a-zA-Z\d])[^\W\d_]{2,}")
_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMERALS = [*_TO_TWENTY, *(f"{ten}-{one}".removesuffix("-zero") for ten in _TENS for one in _TO_TWENTY[:10])]
_ARTICLES = {"a", "an", "the"}
_GREEK = r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|varphi|ell)"
_NAME = rf"(?:[A-Za-z]|{_GREEK})(?:_\{{?\w+\}}?|')?(?:\([a-z]\))?"
_CALL = r"(?:\s*\([^()=<>]*\))?"  # f(2), P(A)
_TITLE = rf"[^\W\d_][^\W\d_ ]+(?: [^\W\d_]+)*{_CALL}"  # total cost
_OBJECT = (
    r"\\(?:angle|triangle|overline|vec|hat|mathbf|bar|Delta)\b[^=<>\d+]*|"
    rf"[A-Z]+{_CALL}|[a-z]\s*\([^()=<>]+\)|[|\[][A-Z]+[|\]]"
)
_TUPLE = rf"\(\s*{_NAME}(?:\s*,\s*{_NAME})+\s*\)"
_NAMED = re.compile(
    rf"\s*(?P<name>{_NAME}|{_TUPLE}|{_OBJECT}|(?P<title>{_TITLE}))\s*(?:=|\\approx|\\in\b)\s*(?P<value>.+)", re.DOTALL
)
_RELATION = re.compile(r"\\leq|\\geq|\\neq|<|>")
_VARIABLE = re.compile(rf"{_NAME}")
_SET_BUILDER = re.compile(rf"\\\{{\s*{_NAME}\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?:\\mid|\||:)\s*(.+)\\\}}", re.DOTALL)
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_SIZES = frozenset("least most more less fewer than over under between not no before after or and times".split())
_VERBS = frozenset("is are was were be equals makes has have needs gets takes costs".split())
_LABEL_WORDS = 3  # June 20, chapter 5 of it
_TIME = re.compile(r"(\d{1,2}:\d\d(?::\d\d)?)(?:\s*([ap])\.?\s?m\.?)?", re.IGNORECASE)
_NOTHING = re.compile(
    r"(?:there (?:is|are) )?no (?:real |such |possible )?(?:solutions?|values?)|(?:the )?empty set", re.IGNORECASE
)
_PARTED_DIGITS = re.compile(r"(?<![_^\d.])\d[\d.]*\s+\d")  # 1 2
_BRACKET = re.compile(r"[()\[\]{}]")
_REALS = re.compile(r"(?:all|any|every) real(?:s| numbers?)", re.IGNORECASE)
_WITH_UNIT = re.compile(
    r"(?P<formula>.*(?:\d|\}|\\pi))(?P<unit> ?(?<![\\a-zA-Z])[a-zA-Z]{2}[a-zA-Z/ ]*(?:\^\{?[23]\}?)?)", re.DOTALL
)
_MOST_OF_A_READING = 2000  # characters
_DEEPEST = 40
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_ABOUT = re.compile(r"(?:approximately|approx\.?|about|around|roughly|nearly|circa|\\approx|\\sim)\s+", re.IGNORECASE)
_ROUNDED = re.compile(r"([^=]*[^=\s].*?)\\approx\s*-?[\d.,]+\s*", re.DOTALL)  # an exact value, and its decimal
_EXACT = re.compile(r"\d|\\pi|\\sqrt")
_LETTERS = re.compile(r"[A-J]{2,5}")
_DECIMAL_COMMA = re.compile(r"-?0,\d+%?")


@lru_cache(maxsize=65536)
def readings(answer: str) -> tuple[Reading, ...]:
    """Every reading of a text, the likeliest first."""
    text = canonical(answer)
    if (exact := _ROUNDED.fullmatch(text)) is not None and _EXACT.search(exact[1]):
        text = exact[1].strip()
    text = _ABOUT.sub("", text)
    if len(text) > _MOST_OF_A_READING or _depth(text) > _DEEPEST:
        return (Words((without_spaces(text),)),)  # equal to itself alone
    choice = _LETTER.fullmatch(text)
    if choice is not None:
        rest = choice["rest"].strip(" :.)")
        found_choice = Choice(choice[1], alone=not rest)
        return (found_choice, _reading(rest)) if rest else (found_choice,)
    if _LETTERS.fullmatch(text):
        return (_reading(text), Several("list", tuple(Choice(letter, alone=True) for letter in text), "letters"))
    found: list[Reading] = []
    if _GROUPED.search(text) and "(" not in text and "[" not in text and "\\{" not in text:
        number = read_number(_GROUPED.sub(lambda match: match[0].replace(",", ""), text))
        if number is not None:
            several = _reading(text)
            listed = replace(several, brackets=",") if isinstance(several, Several) else several
            return (number, listed)
    if _DECIMAL_COMMA.fullmatch(text):
        found.append(_reading(text.replace(",", ".")))
    found.append(_reading(text))
    return tuple(found)


def _depth(text: str) -> int:
    """How deep its brackets nest, whether they close or not."""
    depth = deepest = 0
    for character in _BRACKET.findall(text):
        depth = max(0, depth + (1 if character in "([{" else -1))
        deepest = max(deepest, depth)
    return deepest


def _reading(text: str) -> Reading:
    """The one reading of canonical text."""
    text = text.strip()
    number = read_number(text)
    if number is not None:
        return number
    if text.startswith("\\{") and (defined := _SET_BUILDER.fullmatch(text)) is not None:
        return _relation(defined[1].strip()) or Formula(text)
    if "\\ldots" in text or "..." in text:
        return Words((without_spaces(text),))  # equal to itself alone
    if text in ("\\emptyset", "\\{\\}") or _NOTHING.fullmatch(text):
        return Several("set", ())
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        rows = [row for row in matrix[2].split("\\\\") if row.strip()]
        return Several("matrix", tuple(Several("tuple", tuple(map(_reading, row.split("&")))) for row in rows))
    if len(parts := split_top(text, ("\\cup",))) > 1:
        return Several("union", tuple(map(_reading, parts)))
    if (relation := _relation(text)) is not None:
        return relation
    if (named := _named(text)) is not None:
        return named
    if (numeral := text.casefold().replace(" ", "-")) in _NUMERALS:
        return Number(Fraction(_NUMERALS.index(numeral)))
    if (time := _TIME.fullmatch(text)) is not None:
        return Words((time[1], *((f"{time[2]}m".casefold(),) if time[2] else ())))
    if _REALS.fullmatch(text):
        return Formula("\\mathbb{R}")
    parts = split_top(text, (",", ";", "and", "or"))
    if len(parts) > 1 and all(read_number(part) is not None for part in parts):
        return _list(parts)
    if _is_words(text) or _PARTED_DIGITS.search(text):
        return Words(_words(text))
    if (ratio := _ratio(text)) is not None:
        return ratio
    if len(parts) > 1 and all(part.strip() for part in parts):
        return _list(parts)
    if (inside := _bracketed(text)) is not None:
        return inside
    if "\\pm" in text:
        return Several("list", (_reading(text.replace("\\pm", "+").replace("\\mp", "-").lstrip("+ ")),
                                _reading(text.replace("\\pm", "-").replace("\\mp", "+"))))  # fmt: skip
    return _formula(text)


def _formula(text: str) -> Formula:
    """With the unit that stands after it (`4\\sqrt{13} cm`) apart."""
    match = _WITH_UNIT.fullmatch(text)
    unit = match and read_unit(match["unit"])
    return Formula(match["formula"].strip(), unit) if match and unit else Formula(text)


def _named(text: str) -> Named | None:
    """A value after its name. A title (`total cost = 5`) is no name that a reference must share."""
    match = _NAMED.fullmatch(text)
    if match is None or len(split_top(text, (",", ";", "and", "or"))) > 1:
        return None
    value = split_top(match["value"], ("=",))[-1]
    name = "" if match["title"] and match["name"].casefold() not in MATH_NAMES else without_spaces(match["name"])
    return Named(name, _reading(value), text)


def _ratio(text: str) -> Reading | None:
    """`3:4`, whose terms can be reduced."""
    if ":" not in text:
        return None
    terms = split_top(text, (":",))
    return Several("ratio", tuple(map(_reading, terms))) if len(terms) > 1 and all(terms) else None


def _list(parts: list[str]) -> Reading:
    """A list. A name before its first value, or before each, stands for all (`n = 2, 3, 4`). Relations that are joined
    are a union."""
    items: list[Reading] = []
    for part in parts:
        item = _reading(part)
        items += item.items if isinstance(item, Several) and item.kind == "list" else [item]
    first, *others = items
    if not isinstance(first, Named):
        return Several("list", tuple(items))
    named = [item for item in others if isinstance(item, Named)]
    if any(item.name != first.name for item in named) or len(named) not in (0, len(others)):
        return Several("list", tuple(items))
    values = (first.value, *(item.value if isinstance(item, Named) else item for item in others))
    spans = all(isinstance(value, Several) and value.kind in ("interval", "union") for value in values)
    return Named(first.name, Several("union" if spans and named else "list", values), ", ".join(parts))


def _bracketed(text: str) -> Reading | None:
    """A tuple, interval or set; what stands alone in parentheses is itself."""
    if text.startswith("\\{") and text.endswith("\\}") and _closes(text, 2, len(text) - 2):
        inside = text[2:-2]
        if re.search(r"\\mid|\||(?<!\d):(?!\d)", inside):
            return None  # defined by a property
        return Several("set", _flat(inside))
    if text[:1] == "{" and text[-1:] == "}" and _closes(text, 1, len(text) - 1) and "," in text:
        return Several("set", _flat(text[1:-1]))
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        return Several("tuple", tuple(map(_reading, split_top(text[7:-7], (",",)))), "()")
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]" or not _closes(text, 1, len(text) - 1):
        return None
    items = tuple(map(_reading, split_top(text[1:-1], (",", ";"))))
    if len(items) == 1:
        return items[0] if text[0] + text[-1] == "()" else Several("tuple", items, text[0] + text[-1])
    return Several("interval" if len(items) == 2 else "tuple", items, text[0] + text[-1])


def _flat(inside: str) -> tuple[Reading, ...]:
    """The members of a set."""
    found = _reading(inside)
    return found.items if isinstance(found, Several) and found.kind == "list" else (found,)


def _closes(text: str, start: int, stop: int) -> bool:
    """Whether the brackets before `start` and from `stop` on belong together."""
    depth = 0
    for character in text[start:stop]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def _relation(text: str) -> Reading | None:
    """`x < 3`, `3 > x`, `1 < x \\leq 2`, `x \\neq 0` as intervals of a named value; None for anything else."""
    signs = _RELATION.findall(text)
    if not 1 <= len(signs) <= 2 or len(split_top(text, (",", ";", "and", "or"))) > 1:
        return None
    sides = [side.strip() for side in _RELATION.split(text)]
    if not all(sides):
        return None
    low: Reading
    if len(signs) == 1:
        left, right = sides
        if _VARIABLE.fullmatch(right) and not _VARIABLE.fullmatch(left):
            left, right, signs = right, left, [_TURNED.get(signs[0], signs[0])]
        if not _VARIABLE.fullmatch(left) or _VARIABLE.fullmatch(right):
            return None
        bound = _reading(right)
        below = Several("interval", (Formula("-\\infty"), bound), "(" + ("]" if signs[0] == "\\leq" else ")"))
        above = Several("interval", (bound, Formula("\\infty")), ("[" if signs[0] == "\\geq" else "(") + ")")
        if signs[0] == "\\neq":
            return Named(left, Several("union", (below, above)), text)
        return Named(left, below if signs[0] in ("<", "\\leq") else above, text)
    lower, name, upper = sides
    if not _VARIABLE.fullmatch(name) or "\\neq" in signs:
        return None
    if signs[0] in (">", "\\geq"):
        lower, upper, signs = upper, lower, [_TURNED[sign] for sign in reversed(signs)]
    if signs[1] in (">", "\\geq"):
        return None
    brackets = ("[" if signs[0] == "\\leq" else "(") + ("]" if signs[1] == "\\leq" else ")")
    low = _reading(lower)
    return Named(name, Several("interval", (low, _reading(upper)), brackets), text)


_TURNED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}


def _is_words(text: str) -> bool:
    """Whether it is text rather than mathematics: some word in it is no name of a function."""
    words = [word for word in _WORDY.findall(text) if word not in ("and", "or")]
    if not words or (re.search(r"[=<>^_+*]|\\(?!text)[a-zA-Z]+|\(", text) and len(words) < 3):
        return False
    return any(word.casefold() not in MATH_NAMES for word in words)


def _words(text: str) -> tuple[str, ...]:
    plain = re.sub(r"[^\w\s%$.:/-]", " ", text.casefold())
    words = [word.strip(".:-") for word in plain.split()]
    return tuple(word for word in words if word and word not in _ARTICLES)
