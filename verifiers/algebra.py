"""Whether two formulas are equal: latex2sympy reads them, numbers decide where they can, math-verify the rest.

math-verify rounds what it evaluates to six decimals, so that any two very small numbers are equal to it, drops what it
takes for a unit, and reads a number out of what it can't parse. Expressions are therefore read whole or not at all, and
evaluated to many digits, at some points if they have symbols; what has no value (relations, sets) is left to
math-verify. Slow for some input and without a limit of its own: for the process of `verifiers.equivalence` only.
"""

import random
import re
from functools import lru_cache
from typing import Any

_DIGITS = 30
_MANY_DIGITS = 1000  # for what is equal in the first ones: 2^1000 and 2^1000 + 1
_NUMERIC = 1e-8  # relative, of what is integrated or summed numerically
_ROUNDED = 5e-7  # of what was written as a decimal: it may round
_ROUNDED_RELATIVE = 1e-4
_POINTS = 4
_COMMAND = re.compile(r"\\[a-zA-Z]+")


def algebra(reference: str, answer: str) -> bool | None:
    """Whether two formulas in LaTeX are equal; None where neither way can tell."""
    ours, theirs = _parsed(reference), _parsed(answer)
    if ours is None or theirs is None:
        return False  # their spellings differ, and one is no mathematics
    if _is_relation(ours) != _is_relation(theirs):
        return False
    by_numbers = _by_numbers(ours, theirs)
    return by_numbers if by_numbers is not None else _by_math_verify(ours, theirs)


@lru_cache(maxsize=4096)
def _parsed(latex: str) -> Any:
    """A sympy object; None where the text as a whole is none."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    try:
        return latex2sympy(
            latex,
            convert_degrees=True,
            normalization_config=NormalizationConfig(malformed_operators=True, boxed="none"),
            conversion_config=ConversionConfig(lowercase_symbols=not _has_both_cases(latex)),
        )
    except Exception:  # its parser raises just that, and whatever sympy makes of odd input
        return None


def _has_both_cases(latex: str) -> bool:
    """`R^2 - r^2` has two symbols."""
    letters = set(_COMMAND.sub("", latex))
    return any(letter.isupper() and letter.lower() in letters for letter in letters)


def _is_relation(value: Any) -> bool:
    import sympy

    return isinstance(value, sympy.logic.boolalg.Boolean)


def _by_math_verify(reference: Any, answer: Any) -> bool:
    from math_verify import verify

    return bool(verify([reference], [answer], timeout_seconds=None))


def _by_numbers(a: Any, b: Any) -> bool | None:
    """None where one of them is no expression that has a value."""
    import sympy

    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return None
    a, b = _with_constants(a), _with_constants(b)
    if a == b:
        return True
    if any(e.is_infinite or e.has(sympy.zoo, sympy.nan) for e in (a, b)):
        return False
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    draw, told = random.Random(0), 0
    for _ in range(_POINTS if symbols else 1):
        point = {symbol: sympy.Rational(draw.randint(300, 2700), 1000) for symbol in symbols}
        same = _same_value(a, b, point)
        if same is False:
            return False
        told += same is True
    return True if told else None


def _with_constants(expression: Any) -> Any:
    """`i` and `e` are numbers."""
    import sympy

    constants = {"i": sympy.I, "e": sympy.E}
    return expression.subs(
        {symbol: constants[symbol.name] for symbol in expression.free_symbols if symbol.name in constants}
    )


def _same_value(a: Any, b: Any, point: dict[Any, Any]) -> bool | None:
    """At one point; None where one has no value there."""
    import sympy

    decimal = bool(a.atoms(sympy.Float) or b.atoms(sympy.Float))
    numeric = any(e.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit) for e in (a, b))
    for digits in (_DIGITS,) if decimal or numeric else (_DIGITS, _MANY_DIGITS):
        x, y = _value(a, point, digits), _value(b, point, digits)
        if x is None or y is None:
            return None
        size = max(abs(part) for part in (*x, *y))
        bound = sympy.Float(10, digits) ** -(digits - 10) * size
        if decimal:
            bound = min(sympy.Float(_ROUNDED), _ROUNDED_RELATIVE * size)
        elif numeric:
            bound = _NUMERIC * size
        if any(abs(ours - theirs) > bound for ours, theirs in zip(x, y, strict=True)):
            return False
    return True


def _value(expression: Any, point: dict[Any, Any], digits: int) -> Any:
    """The real and the imaginary part, or None."""
    import sympy

    if expression.has(sympy.Limit, sympy.Derivative):
        expression = expression.doit()
    value = expression.evalf(digits, subs=point) if point else expression.evalf(digits)
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo) or not value.is_finite:
        return None
    parts = [sympy.Integer(0) if _is_noise(part) else part for part in value.as_real_imag()]
    return parts if all(part.is_Number for part in parts) else None


def _is_noise(part: Any) -> bool:
    """Whether nothing is left of a number but what was lost in a difference: an exact zero."""
    return bool(part.is_Float and part._prec <= 1)
