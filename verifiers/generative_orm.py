"""Generative ORM: writes a check of a whole solution that ends in one verdict (GenRM, Zhang et al., arXiv 2408.15240).

A chain's value is the weight of Yes in its verdict: p(Yes) as in the paper, or 1 for a written Yes and 0 for a No.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.protocols import Solution
from verifiers.generative_options import GenerativeOptions, Question
from verifiers.weighing import Abstention, Weigh, as_written

_TEMPLATE = r"""Here are a problem and a solution of it.

[Problem]

{problem}

[Solution]

{solution}

Is the final answer of the solution correct? Go through the solution step by step and check each step for mistakes of \
arithmetic, of logic and of reading the problem.

Say what you find. Then end with one more line that holds only your verdict, where X is Yes or No, written as

Verification: Is the answer correct (Yes/No)? X""".replace("\\\n", "")

_VERDICT = re.compile(r"\W*Verification:\W*Is the answer correct \(Yes/No\)\?\W*(Yes|No)\W*")


@dataclass(frozen=True, kw_only=True)
class GenerativeORM(GenerativeOptions):
    """One question judges a whole solution."""

    template: str = _TEMPLATE
    chains: int = 4
    max_tokens: int = 2048

    scores_steps: ClassVar[bool] = False
    words: ClassVar[tuple[str, ...]] = ("Yes", "No")

    def questions(self, solution: Solution) -> list[Question]:
        num_steps = len(solution.steps)
        assert solution.asked == (num_steps - 1,), "it judges whole solutions only"
        return [Question(prompt=self.prompt(solution, num_steps), asked=solution.asked, num_steps=num_steps)]

    def shown(self, steps: Sequence[str]) -> str:
        return "".join(steps).strip()

    def values(self, question: Question, chain: str, weigh: Weigh = as_written) -> tuple[float, ...]:
        return (weigh(*final_verdict(chain)).get("Yes", 0.0),)


def final_verdict(chain: str) -> tuple[str, int]:
    """Yes or No, from the last line, and at which character of the chain it stands. Raises Abstention."""
    whole = chain.rstrip()
    last = whole.rpartition("\n")[2]
    match = _VERDICT.fullmatch(last)
    if match is None:
        raise Abstention(
            f"got {last[-80:]!r} as the last line, wanted Verification: Is the answer correct (Yes/No)? Yes, or No"
        )
    return match[1], len(whole) - len(last) + match.start(1)
