"""Generative PRM: writes a critique of each step that ends in a boxed verdict (ThinkPRM, arXiv 2504.16828).

A chain's value at a step is 1 when it finds no fault up to there and 0 from the first fault on, so that the average
over chains is an estimate of P(every step so far is correct). Chains are read strictly.
"""

import re
from dataclasses import dataclass

from orchestrator.core.protocols import Solution
from verifiers.generative_options import Abstention, GenerativeOptions, Question

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

    def questions(self, solution: Solution) -> list[Question]:
        num_steps = solution.asked[-1] + 1
        return [Question(prompt=self.prompt(solution, num_steps), asked=solution.asked, num_steps=num_steps)]

    def values(self, question: Question, chain: str) -> tuple[float, ...]:
        num_correct = correct_steps(chain, question.num_steps)
        return tuple(float(index < num_correct) for index in question.asked)


def correct_steps(chain: str, num_steps: int) -> int:
    """How many of the steps come before the first fault that a chain finds. Raises Abstention.

    Wanted are headings `Step 1:`, `Step 2:`, ... in order, with one verdict under each, up to the last step or to the
    first incorrect one. Verdicts on steps that are not there are left out. After a `</think>` only what follows is
    read, unless all verdicts came before it.
    """
    thought, thinks, answer = chain.rpartition("</think>")
    pieces = _STEP.split(thought if thinks and not _VERDICT.search(answer) else answer)
    judged = list(zip(pieces[1::2], pieces[2::2], strict=True))[:num_steps]
    for wanted, (number, critique) in enumerate(judged, start=1):
        if int(number) != wanted:
            raise Abstention(f"got step {number} where step {wanted} was wanted")
        verdicts = set(_VERDICT.findall(critique))
        if len(verdicts) != 1:
            got = "no verdict" if not verdicts else "both verdicts"
            raise Abstention(f"got {got} for step {wanted}, wanted \\boxed{{correct}} or \\boxed{{incorrect}}")
        if verdicts == {"incorrect"}:
            return wanted - 1
    if len(judged) < num_steps:
        raise Abstention(f"got verdicts for {len(judged)} of {num_steps} steps")
    return num_steps
