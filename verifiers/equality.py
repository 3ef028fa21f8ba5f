"""Whether two answers mean the same, as a careful reader would say. Pure; algebra is asked of the caller.

Around math-verify, which takes `cba` for `abc` and a very small number for any other: structure, order, words, units
and exact numbers are compared here, and only single formulas are left to algebra. Three values: None is undecided.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from verifiers.latex import canonical, without_spaces
from verifiers.numbers import Number, read_number
from verifiers.readings import Choice, Formula, Named, Reading, Several, Words, readings

Algebra = Callable[[str, str], bool | None]
"""Whether two formulas, in LaTeX, are equal: the reference first."""

_NEAR = Fraction(1, 2_000_000)  # a rounded decimal for a fraction that has no end
_FUNCTION = re.compile(r"[a-z]\([a-z]\)")
_LETTER = re.compile(r"[a-zA-Z]")
_SYMBOL = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]")
_EXPRESSION = re.compile(r"[+*/]|\w\s*-|\\frac|\\cdot|\(|_|\^")  # more than a multiple of one symbol
_ORDERED = ("tuple", "interval", "matrix", "ratio")


def quick(reference: str, answer: str) -> bool | None:
    """What can be said without algebra; None: ask `equal`."""
    return equal(reference, answer, lambda a, b: None)


def equal(reference: str, answer: str, algebra: Algebra) -> bool | None:
    """Whether the answer is the reference's equal by any pair of their readings."""
    if reference == answer or without_spaces(canonical(reference)) == without_spaces(canonical(answer)):
        return True
    ours, theirs = readings(reference), readings(answer)
    if isinstance(ours[0], Choice) and isinstance(theirs[0], Choice):
        return ours[0].letter == theirs[0].letter
    return _any([_same(a, b, algebra) for a in ours for b in theirs])


def _same(a: Reading, b: Reading, algebra: Algebra) -> bool | None:
    match a, b:
        case Choice(), _:
            return _same_choice(a, b)
        case _, Choice():
            return _same(a, Formula(b.letter), algebra) if b.alone else False
        case Named(), Named():
            if not _same_name(a.name, b.name):
                return _by_relation(a, b, algebra)
            return _any([_same(a.value, b.value, algebra), _by_relation(a, b, algebra)])
        case Named(), _:
            whole = algebra(a.latex, b.latex) if isinstance(b, Formula) and "=" in b.latex else False
            return _any([_same(a.value, b, algebra), whole])
        case _, Named():
            whole = algebra(a.latex, b.latex) if isinstance(a, Formula) and "=" in a.latex else False
            return _any([_same(a, b.value, algebra), whole])
        case Number(), Number():
            return _same_number(a, b)
        case Words(), Words():
            return _same_words(a.words, b.words)
        case Several(), Several():
            return _same_several(a, b, algebra)
        case Number(), Words():
            return b.number is not None and _same(a, b.number, algebra) is True
        case (Words(), _) | (_, Words()):
            return False
        case (Several(), _) | (_, Several()):
            return _one_of_several(a, b, algebra)
    return _same_formula(a, b, algebra)


def _same_words(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """The reference `yes` is said by `Yes, it is`, too, and `6:30` by `6:30 pm`."""
    if a == b or "".join(a) == "".join(b):
        return True
    said, more = a == b[:1], b[1:]
    return said and (a in (("yes",), ("no",)) or more in (("am",), ("pm",)))


def _same_name(a: str, b: str) -> bool:
    """Values without a name have any; `y` and `f(x)` are the same."""
    return not a or not b or a == b or ("y" in (a, b) and any(_FUNCTION.fullmatch(name) for name in (a, b)))


def _same_choice(a: Choice, b: Reading) -> bool:
    match b:
        case Choice():
            return a.letter == b.letter
        case Words():
            return (
                a.alone and len(b.words) > 1 and b.words[0] in ("option", "choice") and b.words[1] == a.letter.lower()
            )
        case Formula():
            return (
                a.alone and without_spaces(b.latex).strip("()").upper() == a.letter and len(b.latex.strip("() ")) == 1
            )
    return False


def _same_number(a: Number, b: Number) -> bool:
    if a.unit and b.unit and not (a.unit <= b.unit or b.unit <= a.unit):
        return False
    if a.base is not None and b.base is not None and a.base != b.base:
        return _in_base(a) == _in_base(b) is not None
    if a.percent == b.percent:
        return _near(a, b, 1)
    return _near(a, b, 1) or (_near(a, b, 100) if a.percent else _near(b, a, 100))


def _near(a: Number, b: Number, scale: int) -> bool:
    """Whether a / scale is b; a decimal may round a fraction that has no end."""
    difference = abs(a.value - b.value * scale)
    if difference == 0:
        return True
    endless = [number for number in (a, b) if not number.decimal and _has_no_end(number.value.denominator)]
    rounded = len(endless) == 1 and (a.decimal or b.decimal)
    return rounded and difference <= min(_NEAR, abs(a.value / 10**4))


def _has_no_end(denominator: int) -> bool:
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator > 1


def _in_base(number: Number) -> int | None:
    digits, base = str(number.value), number.base or 10
    if not digits.isdecimal() or not 2 <= base <= 36 or any(int(digit) >= base for digit in digits):
        return None
    return int(digits, base)


def _same_several(a: Several, b: Several, algebra: Algebra) -> bool | None:
    if a.kind == "matrix" or b.kind == "matrix":
        a, b = _as_vector(a), _as_vector(b)
    if len(a.items) != len(b.items):
        return False
    if a.kind in _ORDERED or b.kind in _ORDERED:
        a, b = _by_name(a), _by_name(b)
    if a.kind != b.kind and {a.kind, b.kind} & {"union", "ratio"}:
        return False
    if a.kind == "ratio" and all(isinstance(item, Number) for item in (*a.items, *b.items)):
        return _are_proportional(a, b)
    if {a.kind, b.kind} <= {"interval"} and a.brackets != b.brackets:
        return False
    if a.brackets == b.brackets == "letters":
        return False  # as words they differ
    if "," in (a.brackets, b.brackets) and (a.kind in _ORDERED or b.kind in _ORDERED):
        return False
    if "set" in (a.kind, b.kind) and (a.kind in _ORDERED or b.kind in _ORDERED):
        return False
    pairs = [[_same(x, y, algebra) for y in b.items] for x in a.items]
    if a.kind in _ORDERED or b.kind in _ORDERED:
        return _all([pairs[i][i] for i in range(len(pairs))])
    return _matched(pairs)


def _by_name(several: Several) -> Several:
    """`y = 5, x = 3` as the point (3, 5) has it; what is not all named stays."""
    named = [item for item in several.items if isinstance(item, Named) and item.name]
    if len(named) < len(several.items):
        return several
    ordered = sorted(named, key=lambda item: item.name)
    return replace(several, items=tuple(ordered))


def _are_proportional(a: Several, b: Several) -> bool:
    ours, theirs = ([item.value for item in x.items if isinstance(item, Number)] for x in (a, b))
    return all(x * theirs[0] == y * ours[0] for x, y in zip(ours, theirs, strict=True))


def _as_vector(several: Several) -> Several:
    """A matrix of one row or one column is a tuple."""
    if several.kind != "matrix":
        return several
    rows = [row.items for row in several.items if isinstance(row, Several)]
    if len(rows) == 1:
        return Several("tuple", rows[0], "()")
    if all(len(row) == 1 for row in rows):
        return Several("tuple", tuple(row[0] for row in rows), "()")
    return several


def _one_of_several(a: Reading, b: Reading, algebra: Algebra) -> bool | None:
    """Several values against what is no list: equal only to a set of that one, or to all real numbers."""
    several, other = (a, b) if isinstance(a, Several) else (b, a)
    assert isinstance(several, Several)
    if several.kind == "ratio" and isinstance(other, Number) and len(several.items) == 2:
        top, bottom = several.items
        return isinstance(top, Number) and isinstance(bottom, Number) and top.value == bottom.value * other.value
    if len(several.items) == 1 and several.kind in ("set", "list"):
        return _same(several.items[0], other, algebra)
    if several.kind == "interval" and isinstance(other, Formula) and "\\mathbb{R}" in other.latex:
        ends = [without_spaces(item.latex) for item in several.items if isinstance(item, Formula)]
        return ends == ["-\\infty", "\\infty"] and without_spaces(other.latex) == "\\mathbb{R}"
    return False


def _same_formula(a: Reading, b: Reading, algebra: Algebra) -> bool | None:
    assert isinstance(a, Number | Formula) and isinstance(b, Number | Formula)
    left, right = _latex(a), _latex(b)
    if a.unit and b.unit and not (a.unit <= b.unit or b.unit <= a.unit):
        return False
    if without_spaces(left) == without_spaces(right):
        return True
    if "=" in right and "=" not in left and (value := _value_of(right, isinstance(a, Number))) is not None:
        return equal(left, value, algebra)
    if "=" in left and "=" not in right and (value := _value_of(left, False)) is not None:
        return equal(value, right, algebra)
    if all(isinstance(reading, Number) or _LETTER.fullmatch(_latex(reading)) for reading in (a, b)):
        return False  # another symbol, or none
    return algebra(left, right)


def _value_of(equation: str, of_a_number: bool) -> str | None:
    """The last side of `2 + 3 = 5`. Where the reference is a number, that of the answer `m + n = 204`, too. None for an
    equation to be solved, such as `2x = 204` or `x + y - 3 = 0`."""
    sides, _, value = equation.rpartition("=")
    named = of_a_number and _EXPRESSION.search(sides) and read_number(value) and value.strip() != "0"
    return value if named or not _SYMBOL.search(sides) else None


def _by_relation(a: Named, b: Named, algebra: Algebra) -> bool | None:
    """Two equations can say the same with different sides."""
    formulas = isinstance(a.value, Formula) and isinstance(b.value, Formula)
    return algebra(a.latex, b.latex) if formulas and "=" in a.latex and "=" in b.latex else False


def _latex(reading: Number | Formula) -> str:
    if isinstance(reading, Number):
        value = reading.value
        plain = (
            str(value.numerator) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
        )
        return f"{plain}^\\circ" if "degree" in reading.unit else plain
    return reading.latex


def _all(values: Sequence[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True


def _any(values: Sequence[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


def _matched(pairs: Sequence[Sequence[bool | None]]) -> bool | None:
    """Whether the items of two lists can be paired, whatever their order."""
    if _can_pair([[value is True for value in row] for row in pairs]):
        return True
    return None if _can_pair([[value is not False for value in row] for row in pairs]) else False


def _can_pair(allowed: Sequence[Sequence[bool]]) -> bool:
    partner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, possible in enumerate(allowed[row]):
            if possible and column not in seen:
                seen.add(column)
                if column not in partner or place(partner[column], seen):
                    partner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(allowed)))
