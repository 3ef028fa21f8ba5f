"""Arithmetic word problems of one step, in English, with exact answers. Standard library only.

Somebody has a number of things and gains or loses some. The worked examples that a prompt shows keep a small model
short: it writes the equation and stops. No problem is one of the examples.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "stickers")
GAINS = ("buys", "finds", "wins")
LOSSES = ("gives away", "loses", "sells")

_START, _CHANGE = (5, 20), (2, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProblem:
    """`solution` is the equation that answers the question."""

    question: str
    solution: str
    answer: str


def generate(num_problems: int, seed: int = 0) -> list[WordProblem]:
    """Distinct problems; fewer are a prefix of more."""
    questions = {problem.question for problem in worked_examples()}
    made: list[WordProblem] = []
    for problem in _draw(f"word_problems/{seed}"):
        if len(made) == num_problems:
            break
        if problem.question not in questions:
            questions.add(problem.question)
            made.append(problem)
    return made


def worked_examples() -> list[WordProblem]:
    """Four, the same for every problem."""
    return list(islice(_draw("word_problems/examples"), 4))


def _draw(seed: str) -> Iterator[WordProblem]:
    rng = random.Random(seed)
    while True:
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        start, change = rng.randint(*_START), rng.randint(*_CHANGE)
        loses = change < start and rng.random() < 0.5
        verb, answer = (rng.choice(LOSSES), start - change) if loses else (rng.choice(GAINS), start + change)
        yield WordProblem(
            question=f"{name} has {start} {thing}. {name} {verb} {change} {'' if loses else 'more '}{thing}. "
            f"How many {thing} does {name} have now?",
            solution=f"{start} {'-' if loses else '+'} {change} = {answer}",
            answer=str(answer),
        )
