"""LLM-as-judge (arXiv 2306.05685): any instruction-following model rates the solution so far from 0 to 10.

A chain's value is its rating as a share of the best one. The rating is read from the last line and from nowhere else.
By probability (G-Eval, arXiv 2303.16634) ratings go to 9, so that each one is a token.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.protocols import Solution
from verifiers.generative_options import GenerativeOptions, Question
from verifiers.weighing import Abstention, ScoreBy, Weigh, as_written

_TEMPLATE = r"""Here are a problem and a solution of it, perhaps an unfinished one, one step after the other.

[Problem]

{problem}

[Solution]

{solution}

Is every step of the solution so far correct? Check each one for mistakes of arithmetic, of logic and of reading the \
problem. A solution that is not finished is not wrong for that.

Say briefly what you find. Then end with one more line that holds only your rating: a whole number from 0 (some step \
is certainly wrong) to {best} (all steps are certainly correct), written as

Rating: \boxed{number}""".replace("\\\n", "")

_RATING = re.compile(r"\W*Rating:\W*\\boxed\{(\d+)\}\W*")


@dataclass(frozen=True, kw_only=True)
class LLMJudge(GenerativeOptions):
    """One question for each asked step. In the template {best} is the best rating."""

    template: str = _TEMPLATE
    chains: int = 1
    max_tokens: int = 1024

    words: ClassVar[tuple[str, ...]] = tuple("0123456789")

    @property
    def best(self) -> int:
        """The best rating."""
        return 9 if self.score is ScoreBy.PROBABILITY else 10

    def questions(self, solution: Solution) -> list[Question]:
        return [
            Question(prompt=self.prompt(solution, index + 1), asked=(index,), num_steps=index + 1)
            for index in solution.asked
        ]

    def values(self, question: Question, chain: str, weigh: Weigh = as_written) -> tuple[float, ...]:
        weights = weigh(*rating(chain, self.best))
        return (sum(weight * int(number) for number, weight in weights.items()) / self.best,)

    def parts(self, solution: Solution, num_steps: int) -> dict[str, str]:
        return {**super().parts(solution, num_steps), "best": str(self.best)}


def rating(chain: str, best: int) -> tuple[str, int]:
    """The number from 0 to `best` on the last line, and at which character of the chain it stands. Raises
    Abstention."""
    whole = chain.rstrip()
    last = whole.rpartition("\n")[2]
    match = _RATING.fullmatch(last)
    if match is None:
        raise Abstention(f"got {last[-80:]!r} as the last line, wanted Rating: \\boxed{{0..{best}}}")
    if int(match[1]) > best:
        raise Abstention(f"got a rating of {match[1][:20]}, wanted 0 to {best}")
    return match[1], len(whole) - len(last) + match.start(1)
