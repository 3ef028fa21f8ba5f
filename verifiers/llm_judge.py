"""LLM-as-judge (arXiv 2306.05685): any instruction-following model rates the solution so far from 0 to 10.

A chain's value is its rating as a share of 10. The rating is read from the last line and from nowhere else.
"""

import re
from dataclasses import dataclass

from orchestrator.core.protocols import Solution
from verifiers.generative_options import Abstention, GenerativeOptions, Question

_TEMPLATE = r"""Here are a problem and a solution of it, perhaps an unfinished one, one step after the other.

[Problem]

{problem}

[Solution]

{solution}

Is every step of the solution so far correct? Check each one for mistakes of arithmetic, of logic and of reading the \
problem. A solution that is not finished is not wrong for that.

Say briefly what you find. Then end with one more line that holds only your rating: a whole number from 0 (some step \
is certainly wrong) to 10 (all steps are certainly correct), written as

Rating: \boxed{number}""".replace("\\\n", "")

_RATING = re.compile(r"\W*Rating:\W*\\boxed\{(\d+)\}\W*")
_BEST = 10


@dataclass(frozen=True, kw_only=True)
class LLMJudge(GenerativeOptions):
    """One question for each asked step."""

    template: str = _TEMPLATE
    chains: int = 1
    max_tokens: int = 1024

    def questions(self, solution: Solution) -> list[Question]:
        return [
            Question(prompt=self.prompt(solution, index + 1), asked=(index,), num_steps=index + 1)
            for index in solution.asked
        ]

    def values(self, question: Question, chain: str) -> tuple[float, ...]:
        return (rating(chain) / _BEST,)


def rating(chain: str) -> int:
    """The number from 0 to 10 on the last line. Raises Abstention."""
    last = chain.rstrip().rpartition("\n")[2]
    match = _RATING.fullmatch(last)
    if match is None:
        raise Abstention(f"got {last[-80:]!r} as the last line, wanted Rating: \\boxed{{0..{_BEST}}}")
    if int(match[1]) > _BEST:
        raise Abstention(f"got a rating of {match[1][:20]}, wanted 0 to {_BEST}")
    return int(match[1])
