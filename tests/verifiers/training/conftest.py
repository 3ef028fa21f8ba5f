"""A toy task of the tiny PRM's vocabulary: a solution is right until the token 7 comes up."""

import random

import pytest

from verifiers.training.encoding import Encoded

WRONG = 7


def solution(rng: random.Random, problem: int, num_steps: int, step_tokens: int = 3) -> Encoded:
    prompt = random.Random(problem)
    ids = [rng.choice([WRONG] + [8, 9, 10, 11] * 3) for _ in range(num_steps * step_tokens)]
    boundaries = range(step_tokens, len(ids) + 1, step_tokens)
    return Encoded(
        problem_id=str(problem),
        prompt_ids=tuple(prompt.randrange(12, 32) for _ in range(prompt.randrange(2, 6))),
        completion_ids=tuple(ids),
        boundaries=tuple(boundaries),
        labels=tuple(float(WRONG not in ids[:end]) for end in boundaries),
    )


@pytest.fixture(scope="session")
def toy() -> list[Encoded]:
    rng = random.Random(0)
    return [solution(rng, problem, rng.randrange(1, 5)) for problem in range(40) for _ in range(3)]
