r"""Mathematics as text: one spelling for the many ways to write the same thing (`\dfrac12`, `1⁄2`, `pi/2`). Pure."""

import re
from functools import lru_cache

_CHARACTERS = {
    "π": "\\pi ", "∞": "\\infty ", "×": "\\cdot ", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "÷": "/", "⁄": "/",
    "≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ", "∓": "\\mp ",
    "°": "^\\circ", "º": "^\\circ", "∅": "\\emptyset ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ",
    "γ": "\\gamma ", "λ": "\\lambda ", "φ": "\\phi ", "ω": "\\omega ", "μ": "\\mu ", "σ": "\\sigma ", "…": "\\ldots ",
    "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅖": " 2/5", "⅗": " 3/5", "⅘": " 4/5",
    "⅙": " 1/6", "⅚": " 5/6", "⅛": " 1/8", "⅜": " 3/8", "⅝": " 5/8", "⅞": " 7/8", "⟨": "\\langle ", "⟩": "\\rangle ",
    "≈": "\\approx ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "¢": " cents",
}  # fmt: skip
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
_SUBS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_SUPERS, _SUBSCRIPTS = re.compile(f"[{''.join(_SUPER)}]+"), re.compile(f"[{''.join(_SUBS)}]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[A-Za-z]))")
_TEXT = re.compile(
    r"\\(?:mathrm|operatorname\*?|text|textbf|textit|textrm|textnormal|mathbf|mathit|mathsf|mbox|hbox|boldsymbol|bm|emph)"
    r"\s*\{([^{}]*)\}"
)
_REPLACED = (
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?(?=\s*[()\[\]{}|\\.]|$)"), ""),
    (re.compile(r"\\(?:displaystyle|limits|nolimits|textstyle)(?![a-zA-Z])"), " "),
    (re.compile(r"(?<!\\)\\[,!;:> ]|\\q?quad(?![a-zA-Z])|~"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (_TEXT, r" \1 "),
    (re.compile(r"\\(?:lbrace)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\(?:times|ast|bullet)(?![a-zA-Z])|\*(?!\*)(?<!\*\*)"), r"\\cdot "),
    (re.compile(r"\\(?:le|leqslant|leqq)(?![a-zA-Z])|<=|=<"), r"\\leq "),
    (re.compile(r"\\(?:ge|geqslant|geqq)(?![a-zA-Z])|>="), r"\\geq "),
    (re.compile(r"\\(?:ne)(?![a-zA-Z])|!="), r"\\neq "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:dots|cdots|dotsc|dotsb)(?![a-zA-Z])|\.{3,}"), r"\\ldots "),
    (re.compile(r"\+\s*-(?=[\s\d])"), "- "),
    (re.compile(r"\\(?:varnothing)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"(?<=[\d.])\\(?:dot|bar)\s*\{(\d+)\}"), r"\\overline{\1}"),
    (re.compile(r"^\s*(?:USD|EUR|GBP|INR|Rs\.?|US\s*(?=\$))\s*(?=[$\d])"), ""),
    (re.compile(r"\\%|\\?\bpercent(?:age)?\b"), "%"),
    (re.compile(r"\\\$"), "$"),
    (re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|(?<=\d)\s*\bdegrees?\b"), r"^\\circ"),
    (re.compile(r"\\infin(?![a-zA-Z])"), r"\\infty"),
    (re.compile(r"\+\s*\\infty"), r"\\infty"),
)  # fmt: skip
_STARS = re.compile(r"\*\*")
_DELIMITERS = re.compile(
    r"(?<!\\)\$(?!\s)((?:[^$\\]|\\.)+?)(?<![\s\\])\$(?!\d)|(?<!\\)\\\((.*?)\\\)|(?<!\\)\\\[(.*?)\\\]"
)
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d|[A-Za-z]))\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\d|[A-Za-z]))")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[A-Za-z])(?![A-Za-z{\[])")
_ONE_IN_BRACES = re.compile(r"([\^_])\{\s*(\w)\s*\}")
_ASCII_NAME = re.compile(
    r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec(?=\s*[\w\\({^])|csc|log|ln|exp|pi|theta|alpha|beta|"
    r"gamma|lambda|phi|omega|sigma)(?![a-zA-Z])"
)
_ASCII_INFINITY = re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])")
_ASCII_ROOT = re.compile(r"(?<![a-zA-Z\\])(?:\\?sqrt\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)|sqrt\s*(\d+))")
_ASCII_POWER = re.compile(r"\^\s*\(([^()]*)\)")
_LONG_POWER = re.compile(r"\^\s*(-?\d{2,}|-\d)")


@lru_cache(maxsize=65536)
def canonical(text: str) -> str:
    """The text in LaTeX with one spelling for each thing. Spaces stay, for they part words."""
    if not text.isascii():
        text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2] or m[3]}}}", text)
        text = _SUPERS.sub(lambda match: "^{" + "".join(_SUPER[c] for c in match[0]) + "}", text)
        text = _SUBSCRIPTS.sub(lambda match: "_{" + "".join(_SUBS[c] for c in match[0]) + "}", text)
        for character, latex in _CHARACTERS.items():
            text = text.replace(character, latex)
    text = _DELIMITERS.sub(lambda match: f" {match[1] or match[2] or match[3]} ", text)
    text = _DECIMAL_COMMA.sub(".", _STARS.sub("^", text))
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = _SHORT_FRACTION.sub(_full_fraction, text)
    text = _SHORT_FRACTION.sub(_full_fraction, text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _ASCII_ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text)
    text = _ASCII_POWER.sub(r"^{\1}", text)
    text = _LONG_POWER.sub(r"^{\1}", text) if "{" not in text or "^" in text else text
    text = _ASCII_INFINITY.sub(r"\\infty ", text)
    text = _ASCII_NAME.sub(r"\\\1 ", text)
    text = _ONE_IN_BRACES.sub(r"\1\2", text)
    return " ".join(text.replace("$", " $ ").split()).replace("$ ", "$").strip()


def _full_fraction(match: re.Match[str]) -> str:
    top = match[1] if match[1] is not None else match[2]
    bottom = match[3] if match[3] is not None else match[4]
    return f"\\frac{{{top.strip()}}}{{{bottom.strip()}}}"


def without_spaces(text: str) -> str:
    """To compare spellings. A space stays where it parts two words or two numbers."""
    return re.sub(r"(?<![a-zA-Z\d])\s+|(?<=[a-zA-Z])\s+(?![a-zA-Z])|(?<=\d)\s+(?!\d)", "", text)


def split_top(text: str, separators: tuple[str, ...]) -> list[str]:
    """The parts between separators that are inside no bracket. A separator that is a word or a command stands alone."""
    parts, depth, start, index = [], 0, 0, 0
    while index < len(text):
        character = text[index]
        if text.startswith(("\\{", "\\}"), index):
            depth += 1 if text[index + 1] == "{" else -1
            index += 2
            continue
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        found = next((s for s in separators if text.startswith(s, index)), None) if depth == 0 else None
        if found is not None and found[-1].isalpha():
            before, after = text[index - 1 : index], text[index + len(found) : index + len(found) + 1]
            if after.isalpha() or (found[0] != "\\" and (before.isalpha() or before == "\\" or not before)):
                found = None
        if found == "=" and text[index - 1 : index] in "<>!":
            found = None
        if found is not None:
            parts.append(text[start:index])
            index += len(found)
            start = index
            continue
        index += 1
    parts.append(text[start:])
    joined = [part.strip() for part in parts]
    return [part for part in joined if part] if {"and", "or"} & set(separators) else joined
