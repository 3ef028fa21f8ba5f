"""Generative PRM: writes a critique of each step that ends in a boxed verdict (ThinkPRM, arXiv 2504.16828).

A chain's value at a step is 1 when it finds no fault up to there and 0 from the first fault on, so that the average
over chains is an estimate of P(every step so far is correct). By probability it is the product of each step's weight
of `correct` up to there; steps after a written fault have no verdict, and the value of the fault. Chains are read
strictly.
"""

import re
from dataclasses import dataclass
from itertools import accumulate, islice, zip_longest
from operator import mul
from typing import ClassVar

from orchestrator.core.protocols import Solution
from verifiers.generative_options import GenerativeOptions, Question
from verifiers.weighing import Abstention, Weigh, as_written

# The prompt of that paper's appendix: its training chains were written to it, and models that it did not train know
# the format from it.
_TEMPLATE = r"""You are given a math problem and a proposed multiple-step solution (with a step on each line):

[Math Problem]

{problem}

[Solution]

{solution}

Review and critique the proposed solution steps and determine whether each step is correct. If the solution is \
incomplete, only critique the steps that are provided. Your output must be in the following format:

Let's verify step by step:
Step 1: <critique> The step is \boxed{correct/incorrect}
Step 2: <critique> The step is \boxed{correct/incorrect}
...
Step n: <critique> The step is \boxed{correct/incorrect}

Once you find an incorrect step, you should stop since you don't need to analyze the remaining steps.""".replace(
    "\\\n", ""
)

_STEP = re.compile(r"^[ \t#*]*Step (\d+)\**:", re.MULTILINE)
_VERDICT = re.compile(r"\\boxed\{(?:\\text\{)?(correct|incorrect)\}")


@dataclass(frozen=True, kw_only=True)
class GenerativePRM(GenerativeOptions):
    """One question judges all asked steps of a solution."""

    template: str = _TEMPLATE
    chains: int = 4
    max_tokens: int = 4096

    words: ClassVar[tuple[str, ...]] = ("correct", "incorrect")

    def questions(self, solution: Solution) -> list[Question]:
        num_steps = solution.asked[-1] + 1
        return [Question(prompt=self.prompt(solution, num_steps), asked=solution.asked, num_steps=num_steps)]

    def values(self, question: Question, chain: str, weigh: Weigh = as_written) -> tuple[float, ...]:
        weights = [weigh(*verdict).get("correct", 0.0) for verdict in step_verdicts(chain, question.num_steps)]
        so_far = list(accumulate(weights, mul))
        return tuple(so_far[min(index, len(so_far) - 1)] for index in question.asked)


def correct_steps(chain: str, num_steps: int) -> int:
    """How many of the steps come before the first fault that a chain finds. Raises Abstention."""
    return sum(verdict == "correct" for verdict, _ in step_verdicts(chain, num_steps))


def step_verdicts(chain: str, num_steps: int) -> list[tuple[str, int]]:
    """The verdicts up to the first fault that a chain finds, and at which character of it each stands. Raises
    Abstention.

    Wanted are headings `Step 1:`, `Step 2:`, ... in order, with one verdict under each, up to the last step or to the
    first incorrect one. Verdicts on steps that are not there are left out. After a `</think>` only what follows is
    read, unless all verdicts came before it.
    """
    thought, thinks, answer = chain.rpartition("</think>")
    in_thought = bool(thinks) and not _VERDICT.search(answer)
    read, first = (thought, 0) if in_thought else (answer, len(chain) - len(answer))
    headings = list(_STEP.finditer(read))
    found: list[tuple[str, int]] = []
    for heading, following in islice(zip_longest(headings, headings[1:]), num_steps):
        wanted, end = len(found) + 1, following.start() if following is not None else len(read)
        if int(heading[1]) != wanted:
            raise Abstention(f"got step {heading[1]} where step {wanted} was wanted")
        verdicts = list(_VERDICT.finditer(read, heading.end(), end))
        words = {verdict[1] for verdict in verdicts}
        if len(words) != 1:
            got = "no verdict" if not words else "both verdicts"
            raise Abstention(f"got {got} for step {wanted}, wanted \\boxed{{correct}} or \\boxed{{incorrect}}")
        found.append((verdicts[0][1], first + verdicts[0].start(1)))
        if words == {"incorrect"}:
            return found
    if len(found) < num_steps:
        raise Abstention(f"got verdicts for {len(found)} of {num_steps} steps")
    return found
