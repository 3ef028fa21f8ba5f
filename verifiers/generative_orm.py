"""Generative ORM: writes a check of a whole solution that ends in one verdict (GenRM, Zhang et al., arXiv 2408.15240).

A chain's value is 1 where its verdict is Yes and 0 where it is No. The paper weighs Yes by its probability; here only
what was written is read, so the average over chains is the share that says Yes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.protocols import Solution
from verifiers.generative_options import Abstention, GenerativeOptions, Question

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

    def questions(self, solution: Solution) -> list[Question]:
        num_steps = len(solution.steps)
        assert solution.asked == (num_steps - 1,), "it judges whole solutions only"
        return [Question(prompt=self.prompt(solution, num_steps), asked=solution.asked, num_steps=num_steps)]

    def shown(self, steps: Sequence[str]) -> str:
        return "".join(steps).strip()

    def values(self, question: Question, chain: str) -> tuple[float, ...]:
        return (float(says_yes(chain)),)


def says_yes(chain: str) -> bool:
    """Whether the verdict on the last line is Yes. Raises Abstention."""
    last = chain.rstrip().rpartition("\n")[2]
    match = _VERDICT.fullmatch(last)
    if match is None:
        raise Abstention(
            f"got {last[-80:]!r} as the last line, wanted Verification: Is the answer correct (Yes/No)? Yes, or No"
        )
    return match[1] == "Yes"
