"""Numbers as they are written: exact values, with units, currencies, percent signs and bases. Pure."""

import re
from dataclasses import dataclass
from fractions import Fraction

MATH_NAMES = frozenset(
    "sin cos tan cot sec csc log ln exp sqrt pi inf infinity oo lim max min gcd lcm mod det arcsin arccos arctan sinh "
    "cosh tanh theta alpha beta gamma delta lambda mu sigma phi omega abs floor ceil frac cdot times".split()
)
_MOST_EXPONENT = 300

_SIGN = r"(?P<sign>[-+]?)"
_PLAIN = r"\d+(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"{_SIGN}(?P<currency>[$£€¥₹]?)(?P<sign2>[-+]?)(?:"
    rf"(?P<whole>\d+)?\\frac\{{(?P<top>[-+]?(?:{_PLAIN}))\}}\{{(?P<bottom>{_PLAIN})\}}"
    rf"|(?P<mixed>\d+) (?P<mtop>\d+)/(?P<mbottom>\d+)"
    rf"|(?P<ntop>{_PLAIN})/(?P<nbottom>{_PLAIN})"
    rf"|(?P<mantissa>{_PLAIN})\\cdot10\^(?:\{{(?P<power>[-+]?\d+)\}}|(?P<power1>\d))"
    rf"|(?P<repeating>\d*\.\d*)\\overline\{{(?P<period>\d+)\}}"
    rf"|(?P<plain>{_PLAIN})(?:[eE](?P<exponent>[-+]?\d+))?"
    rf")(?:_(?:\{{(?P<base>\d+)\}}|(?P<base1>\d)))?(?P<percent>%?)(?P<degree>(?:\^\\circ(?:\s?[CF]\b)?)?)(?P<rest>.*)",
    re.DOTALL,
)
_SPACED = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d])")
_UNIT = re.compile(r"(?:[^\W\d_]|[\u0900-\u0e7f])+|[$£€¥]|\^\{?[23]\}?")
_UNIT_TEXT = re.compile(r"[\s\-]*(?:[^\W\d_]|[\u0900-\u0e7f]|\^\{?[23]\}?|[/.\s\-()$£€₹¥]|\\cdot)*")
_SAME_UNIT = {
    "dollar": "$", "usd": "$", "buck": "$", "euro": "€", "eur": "€", "pound": "£", "gbp": "£", "cent": "¢",
    "cm": "centimeter", "centimetre": "centimeter", "mm": "millimeter", "millimetre": "millimeter", "m": "meter",
    "metre": "meter", "km": "kilometer", "kilometre": "kilometer", "in": "inch", "inche": "inch", "ft": "foot",
    "feet": "foot", "yd": "yard", "mi": "mile", "kg": "kilogram", "g": "gram", "lb": "pound-mass", "oz": "ounce",
    "sec": "second", "s": "second", "min": "minute", "hr": "hour", "h": "hour", "hrs": "hour", "yr": "year",
    "l": "liter", "litre": "liter", "ml": "milliliter", "deg": "degree", "sq": "square", "squared": "square",
    "^2": "square", "^{2}": "square", "^3": "cubic", "^{3}": "cubic", "cubed": "cubic", "percent": "%",
    "people": "person", "children": "child", "men": "man", "women": "woman", "feets": "foot",
}  # fmt: skip
_COMPOUND_UNITS = {"mph": ("mile", "hour"), "kph": ("kilometer", "hour"), "kmh": ("kilometer", "hour")}
_ALSO_UNITS = ("min", "sec")  # and names of functions, where something follows
_UNIT_LETTERS = frozenset("mgshlkcf")
_SHORT_UNITS = frozenset("mg cl dl nm dm ha pt qt kb mb gb tb hz kw mw kj ev pm am ms ns mo wk".split())
_UNIT_WORDS = frozenset(_SAME_UNIT) | frozenset(_SAME_UNIT.values()) | frozenset(_COMPOUND_UNITS) | _SHORT_UNITS
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MAGNITUDE = re.compile(rf"\s*({'|'.join(_MAGNITUDES)})s?\b", re.IGNORECASE)
_UNIT_NOISE = {"of", "the", "a", "an", "in", "per", "each", "total", "about", "is"}


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value as it was written."""

    value: Fraction
    unit: frozenset[str] = frozenset()  # its words
    percent: bool = False
    base: int | None = None  # of positional notation; `value` is then what the digits say in it
    decimal: bool = False  # written with a decimal point


def read_number(text: str) -> Number | None:
    """The text as a number with perhaps a unit; None for anything else."""
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text.strip())
    text = re.sub(r"\s*(\\cdot|\^|_|/)\s*", r"\1", text)
    text = re.sub(r"(?<=\d)\s+(?=\\frac)|(?<=[-+$£€¥])\s+|\s+(?=[%^])", "", text)
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    group = match.groupdict()
    rest, scale = group["rest"], 1
    while (magnitude := _MAGNITUDE.match(rest)) is not None:  # of `3 hundred thousand dollars`
        rest, scale = rest[magnitude.end() :], scale * 10 ** _MAGNITUDES[magnitude[1].lower()]
    unit = read_unit(rest)
    if unit is None:
        return None
    try:
        value = _value(group)
    except (ZeroDivisionError, ValueError):  # or more digits than Python takes
        return None
    if value is None:
        return None
    if "-" in (group["sign"], group["sign2"]):
        value = -value
    digits = group["base"] or group["base1"]
    if group["currency"]:
        unit |= {group["currency"]}
    value *= scale
    percent = bool(group["percent"]) or "%" in unit
    degree = bool(group["degree"])
    return Number(
        value=value,
        unit=(unit - {"%"}) | ({"degree"} if degree else frozenset()),
        percent=percent,
        base=None if digits is None else int(digits),
        decimal="." in (group["plain"] or group["mantissa"] or ""),
    )


def _value(group: dict[str, str | None]) -> Fraction | None:
    if group["bottom"] is not None:
        fraction = Fraction(group["top"] or "0") / Fraction(group["bottom"])
        return fraction if group["whole"] is None else int(group["whole"]) + fraction
    if group["mixed"] is not None:
        return int(group["mixed"]) + Fraction(int(group["mtop"] or 0), int(group["mbottom"] or 0))
    if group["nbottom"] is not None:
        return Fraction(group["ntop"] or "0") / Fraction(group["nbottom"])
    if group["mantissa"] is not None:
        return _scaled(group["mantissa"], int(group["power"] or group["power1"] or 0))
    if group["repeating"] is not None:
        period = group["period"] or "0"
        places = len(group["repeating"].partition(".")[2])
        head = Fraction((group["repeating"].rstrip(".") or "0") if group["repeating"] != "." else "0")
        return head + Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    plain = group["plain"]
    return None if plain is None else _scaled(plain, int(group["exponent"] or 0))


def _scaled(mantissa: str, power: int) -> Fraction | None:
    return None if abs(power) > _MOST_EXPONENT else Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** power


def read_unit(rest: str) -> frozenset[str] | None:
    """The words of a unit, the same for plural and short forms; None where the rest is no unit: what begins with a
    power is none (`10^3`)."""
    if not rest.strip():
        return frozenset()
    if _UNIT_TEXT.fullmatch(rest) is None or "\\" in rest.replace("\\cdot", "") or rest.strip()[0] in "(^":
        return None
    words = [word.casefold() for word in _UNIT.findall(rest)]
    if not words or _is_symbol(words[0], apart=rest[0] in " -"):
        return None
    if any(word in MATH_NAMES and word not in _ALSO_UNITS for word in words) or "and" in words or "or" in words:
        return None
    words = [part for word in words for part in _COMPOUND_UNITS.get(word, (word,))]
    plain = [_SAME_UNIT.get(word, _SAME_UNIT.get(word.removesuffix("s"), word.removesuffix("s"))) for word in words]
    return frozenset(word for word in plain if word not in _UNIT_NOISE)


def _is_symbol(word: str, *, apart: bool) -> bool:
    """Whether what stands after a number is its factor rather than its unit: `5m`, `2xy`, `3 x`."""
    if not word.isalpha() or not word.isascii():
        return False
    if len(word) == 1:
        return word not in _UNIT_LETTERS or not apart
    return len(word) <= (2 if apart else 3) and not {word, word.removesuffix("s")} & _UNIT_WORDS
