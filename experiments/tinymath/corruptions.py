"""Wrong solutions made from right ones: a slip in one step, after which the rest carries it on or ignores it."""

import random
import re
from collections.abc import Sequence

from experiments.tinymath.task import STEP_DELIMITER, apply


def corrupt(solution: str, rng: random.Random) -> str:
    """A wrong completion: one step has a wrong result, operand, sign or name, or is missing."""
    while True:
        wrong = _corrupt_once(solution, rng)
        if wrong != solution:
            return wrong


def corrupt_steps(solution: str, rate: float, rng: random.Random) -> str:
    """A completion in which each step (the answer, too) is wrong with chance `rate`, whatever the others are."""
    *steps, answer = solution.split(STEP_DELIMITER)
    rows = _rows(steps)
    right = [row.copy() for row in rows]
    for row in rows:
        if rng.random() < rate:
            _slip_step(row, right, rng)
    if rng.random() < rate:
        answer = f"Answer: {_slip(int(answer.removeprefix('Answer: ')), rng)}"
    return _joined(rows, answer)


def _corrupt_once(solution: str, rng: random.Random) -> str:
    *steps, answer = solution.split(STEP_DELIMITER)
    position = rng.randrange(len(steps) + 1)
    if position == len(steps):
        return STEP_DELIMITER.join([*steps, f"Answer: {_slip(int(answer.removeprefix('Answer: ')), rng)}"])
    if rng.random() < 0.06:
        del steps[position]
        return STEP_DELIMITER.join([*steps, answer])
    carry_on = rng.random() < 0.7
    rows = _rows(steps)
    _slip_step(rows[position], rows, rng)
    if carry_on:
        for row, before in zip(rows[position + 1 :], rows[position:], strict=False):
            row[1] = before[4]
            row[4] = str(max(0, apply(int(row[1]), row[2], max(1, int(row[3])))))
        answer = f"Answer: {rows[-1][4]}"
    return _joined(rows, answer)


def _rows(steps: Sequence[str]) -> list[list[str]]:
    """Name, value before, sign, operand and result of each step."""
    return [list(re.fullmatch(r"(\w+): (\d+) (\S+) (\d+) = (\d+)", step).groups()) for step in steps]  # type: ignore[union-attr]


def _joined(rows: Sequence[Sequence[str]], answer: str) -> str:
    return STEP_DELIMITER.join([f"{row[0]}: {row[1]} {row[2]} {row[3]} = {row[4]}" for row in rows] + [answer])


def _slip_step(slipped: list[str], rows: Sequence[Sequence[str]], rng: random.Random) -> None:
    """Makes one mistake in a step of `rows`; by chance there may be none."""
    kind = rng.choices(("result", "operand", "sign", "name", "start"), (0.7, 0.12, 0.06, 0.06, 0.06))[0]
    if kind == "name":
        slipped[0] = rng.choice(rows)[0]
    elif kind == "sign":
        slipped[2] = rng.choice(("+", "-", "*", "//"))
    elif kind == "operand":
        slipped[3] = rng.choice((rng.choice(rows)[3], str(_slip(int(slipped[3]), rng))))
    elif kind == "start":
        slipped[1] = str(_slip(int(slipped[1]), rng))
    value = max(0, apply(int(slipped[1]), slipped[2], max(1, int(slipped[3]))))
    slipped[4] = str(_slip(value, rng) if kind == "result" else value)


def _slip(value: int, rng: random.Random) -> int:
    if rng.random() < 0.6:
        return abs(value + rng.choice((-1, 1)) * rng.choices((1, 2, 10, 20, 100), (6, 2, 5, 1, 1))[0])
    digits = list(str(value))
    digits[rng.randrange(len(digits))] = str(rng.randrange(10))
    return int("".join(digits))
