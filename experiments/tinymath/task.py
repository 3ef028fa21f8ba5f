"""Word problems over a running number, with exact labels for every step of a solution.

A problem changes one number step by step ("Kim buys 25"), sometimes by an earlier amount ("same as Kim"), among lines
that change nothing ("Jon sees 7"). Its correct solution is unique, so that the label of a step is exact. The split of
a problem is a hash of its arithmetic alone: no test problem is a renamed, re-worded or re-distracted train problem.
Standard library only.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = ("Kim", "Eve", "Bob", "Jon", "Ann", "Sam", "Tom", "Liz", "Max", "Zoe", "Ida", "Leo")
NOUNS = ("books", "pens", "eggs", "coins", "cards", "nuts")
VERBS = {"+": "buys", "-": "sells", "*": "multiplies by", "//": "divides by"}
DISTRACTIONS = ("sees", "wants")
BACK_REFERENCE = "finds same as", "drops same as"

STEP_DELIMITER = "\n\n"
MAX_LEVEL = 8
SPLITS = ("train", "dev", "test")

_OPERATION_WEIGHTS = {"+": 0.36, "-": 0.34, "*": 0.18, "//": 0.12}
_REFERENCE_RATE = 0.24
_HELD_OUT_SHARE = 0.1  # of all problems, for dev and test each


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """How large the numbers of a problem are: inclusive ranges, and the largest value on the way."""

    start: tuple[int, int]
    addend: tuple[int, int]
    factor: tuple[int, int]
    largest: int


_SCALES = (
    _Scale(start=(3, 20), addend=(1, 9), factor=(2, 3), largest=30),
    _Scale(start=(10, 60), addend=(2, 30), factor=(2, 4), largest=99),
    _Scale(start=(10, 99), addend=(5, 60), factor=(2, 9), largest=199),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyProblem:
    """`level` is the number of steps (1..8); `solution` is the one correct completion, without the end token."""

    id: str
    prompt: str
    answer: str
    level: int
    solution: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    symbol: str
    operand: int
    refers_to: int | None  # index of the earlier step whose operand this one repeats


def generate(split: str, num_problems: int, seed: int = 0) -> list[TinyProblem]:
    """Distinct problems of a split, of 2 to 8 steps; fewer problems are a prefix of more."""
    if num_problems < 0:
        raise ValueError(f"generate: num_problems must be >= 0, got {num_problems}")
    return list(itertools.islice(stream(split, seed), num_problems))


def stream(split: str, seed: int = 0, levels: tuple[int, int] = (2, MAX_LEVEL)) -> Iterator[TinyProblem]:
    """Endless distinct problems of a split, with `levels` (inclusive) steps."""
    if split not in SPLITS:
        raise ValueError(f"tinymath: split must be one of {', '.join(SPLITS)}, got {split!r}")
    rng = random.Random(f"tinymath/{split}/{seed}/{levels[0]}-{levels[1]}")
    seen: set[str] = set()
    while True:
        start, operations = _draw_arithmetic(rng, rng.randint(*levels))
        key = arithmetic_key(start, operations)
        if split_of(key) != split or (key in seen and levels[0] > 1):
            continue
        seen.add(key)
        yield _write(f"tinymath-{split}-{seed}-{len(seen) - 1:06d}", rng, start, operations)
