"""Word problems over a running number, with exact labels for every step of a solution.

A problem changes one number step by step ("Kim buys 25"), sometimes by an earlier amount ("Bob finds same as Kim"),
among lines that change nothing ("Jon sees 7"). Its correct solution is unique, so that the label of a step is exact.
The split of a problem is a hash of its arithmetic alone: no test problem is a renamed, re-worded or re-distracted train
problem. Standard library only.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = ("Kim", "Eve", "Bob", "Jon", "Ann", "Sam", "Tom", "Liz", "Max", "Zoe", "Ida", "Leo")
NOUNS = ("books", "pens", "eggs", "coins", "cards", "nuts")
VERBS = {"+": "buys", "-": "sells", "*": "multiplies by", "//": "divides by"}
DISTRACTIONS = ("sees", "wants")
BACK_REFERENCES = {"+": "finds same as", "-": "drops same as"}

STEP_DELIMITER = "\n\n"
MAX_LEVEL = 8
SPLITS = ("train", "dev", "test")

_OPERATION_WEIGHTS = {"+": 0.36, "-": 0.34, "*": 0.18, "//": 0.12}
_REFERENCE_RATE = 0.16
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
    _Scale(start=(10, 60), addend=(2, 9), factor=(2, 4), largest=99),
    _Scale(start=(10, 99), addend=(4, 30), factor=(2, 5), largest=99),
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
    problems: list[TinyProblem] = []
    seen: set[str] = set()
    for problem, key in _draw(split, f"{seed}", (2, MAX_LEVEL)):
        if len(problems) == num_problems:
            break
        if key not in seen:
            seen.add(key)
            problems.append(problem)
    return problems


def stream(split: str, seed: int, levels: tuple[int, int]) -> Iterator[TinyProblem]:
    """Endless problems of a split with `levels` (inclusive) steps, for training; repeats are possible."""
    return (problem for problem, _ in _draw(split, f"{seed}/stream/{levels[0]}-{levels[1]}", levels))


def step_labels(problem: TinyProblem, completion_text: str) -> list[bool]:
    """Whether each step of a completion, and every step before it, equals the correct one.

    Steps are separated by a blank line; a trailing end token or delimiter opens no further step. A step cut short,
    out of order or after the answer is wrong.
    """
    steps = completion_text.removesuffix("<eos>").removesuffix(STEP_DELIMITER).split(STEP_DELIMITER)
    correct_steps = problem.solution.split(STEP_DELIMITER)
    labels, so_far = [], True
    for index, step in enumerate(steps):
        so_far = so_far and index < len(correct_steps) and step == correct_steps[index]
        labels.append(so_far)
    return labels


def extract_answer(text: str) -> str | None:
    """The last `Answer: X` of a completion; None when there is none."""
    found = re.findall(r"Answer: (\d+)", text)
    return found[-1] if found else None


def split_of(arithmetic_key: str) -> str:
    """The split a problem belongs to, from its arithmetic alone."""
    share = int.from_bytes(hashlib.sha256(arithmetic_key.encode()).digest()[:8]) / 2**64
    if share < _HELD_OUT_SHARE:
        return "test"
    return "dev" if share < 2 * _HELD_OUT_SHARE else "train"


def arithmetic_of(prompt: str) -> str:
    """What a prompt computes, with names, nouns and distractors abstracted away."""
    lines = prompt.split("\n")
    by_verb = {verb: symbol for symbol, verb in VERBS.items()} | dict(zip(BACK_REFERENCES.values(), "+-", strict=True))
    parts = [re.findall(r"\d+", lines[0])[0]]
    names: list[str] = []
    for line in lines[1:-1]:
        name, verb, operand = re.fullmatch(r"(\w+) (.+) (\w+)", line).groups()  # type: ignore[union-attr]
        if verb in DISTRACTIONS:
            continue
        parts.append(by_verb[verb] + (operand if operand.isdigit() else f"@{names.index(operand)}"))
        names.append(name)
    return " ".join(parts)


def _draw(split: str, seed: str, levels: tuple[int, int]) -> Iterator[tuple[TinyProblem, str]]:
    if split not in SPLITS:
        raise ValueError(f"tinymath: split must be one of {', '.join(SPLITS)}, got {split!r}")
    rng = random.Random(f"tinymath/{split}/{seed}")
    count = 0
    while True:
        start, operations = _draw_arithmetic(rng, rng.randint(*levels))
        key = _arithmetic_key(start, operations)
        if split_of(key) == split:
            yield _write(f"tinymath-{split}-{seed}-{count:06d}", rng, start, operations), key
            count += 1


def _draw_arithmetic(rng: random.Random, num_steps: int) -> tuple[int, list[_Operation]]:
    scale = rng.choice(_SCALES)
    start = rng.randint(*scale.start)
    value, operations = start, list[_Operation]()
    while len(operations) < num_steps:
        (symbol,) = rng.choices(tuple(_OPERATION_WEIGHTS), tuple(_OPERATION_WEIGHTS.values()))
        refers_to = None
        if symbol in "+-":
            operand = rng.randint(*scale.addend)
            earlier = [i for i, op in enumerate(operations) if op.symbol in "+-"]
            if earlier and rng.random() < _REFERENCE_RATE:
                refers_to = rng.choice(earlier)
                operand = operations[refers_to].operand
        else:
            operand = rng.randint(*scale.factor)
        result = apply(value, symbol, operand)
        if 0 < result <= scale.largest:
            operations.append(_Operation(symbol=symbol, operand=operand, refers_to=refers_to))
            value = result
    return start, operations


def apply(value: int, symbol: str, operand: int) -> int:
    """One operation of the task; division rounds down."""
    return {"+": value + operand, "-": value - operand, "*": value * operand, "//": value // operand}[symbol]


def _arithmetic_key(start: int, operations: list[_Operation]) -> str:
    return " ".join(
        [str(start)]
        + [op.symbol + (str(op.operand) if op.refers_to is None else f"@{op.refers_to}") for op in operations]
    )


def _write(problem_id: str, rng: random.Random, start: int, operations: list[_Operation]) -> TinyProblem:
    names = rng.sample(NAMES, len(operations) + 2)
    lines, steps, value = [], [], start
    for name, op in zip(names, operations, strict=False):
        if op.refers_to is None:
            lines.append(f"{name} {VERBS[op.symbol]} {op.operand}")
        else:
            lines.append(f"{name} {BACK_REFERENCES[op.symbol]} {names[op.refers_to]}")
        result = apply(value, op.symbol, op.operand)
        steps.append(f"{name}: {value} {op.symbol} {op.operand} = {result}")
        value = result
    for name in names[len(operations) : len(operations) + rng.randint(0, 2)]:
        lines.insert(rng.randint(0, len(lines)), f"{name} {rng.choice(DISTRACTIONS)} {rng.randint(1, 30)}")
    prompt = "\n".join([f"Box with {start} {rng.choice(NOUNS)}", *lines, "How many now?"])
    return TinyProblem(
        id=problem_id,
        prompt=prompt,
        answer=str(value),
        level=len(operations),
        solution=STEP_DELIMITER.join([*steps, f"Answer: {value}"]),
    )
