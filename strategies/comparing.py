"""Solutions compared by the policy itself: what it is asked, how its judgment is read, and the vote behind it.

A judgment is written through the session, as a conversation of its own, so budgets, deadlines and the ledger hold. It
names a solution on its last line, in GenSelect's form (arXiv 2507.17797). What can't be read is no preference.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.errors import PromptTooLong
from orchestrator.core.nouns import Message, Problem, Trajectory
from orchestrator.core.protocols import Session
from strategies.concurrency import together
from strategies.voting import majority_vote

_REQUEST = """Which of these solutions is most likely to be correct? Where their answers differ, find the step at \
which they part and check it for mistakes of arithmetic, of logic and of reading the problem. Neither the order of the \
solutions nor their length matters.

Say briefly what you find. Then end with one more line that holds only your judgment, where IDX is the number of the \
best solution, written as

Judgment: [IDX]"""

_JUDGMENT = re.compile(r"\W*Judgment:\W*\[(\d{1,4})\]\W*")


async def compared(line_ups: Sequence[Sequence[Trajectory]], session: Session) -> list[int | None]:
    """Which solution of each line-up the policy prefers, by its place. All judgments are written side by side.

    None is no preference: the judgment can't be read, the line-up does not fit into the context, or nothing is left of
    the budget.
    """
    if line_ups and not session.may_go_on():
        return [None] * len(line_ups)
    prompts = await together(_prompt(line_up, session) for line_up in line_ups)
    fitting = [prompt for prompt in prompts if prompt is not None]
    judgments = iter(await session.rollout(fitting, scored=False) if fitting else ())
    return [
        None if prompt is None else place(next(judgments).reply, len(line_up))
        for prompt, line_up in zip(prompts, line_ups, strict=True)
    ]


async def _prompt(line_up: Sequence[Trajectory], session: Session) -> Trajectory | None:
    """On the paths of those it shows, so that a judgment's seed depends on no other; None where it does not fit."""
    try:
        shown = await session.start(question(line_up[0].problem, [solution.reply for solution in line_up]))
    except PromptTooLong:
        return None
    return replace(shown, path=tuple(child for solution in line_up for child in solution.path))


def question(problem: Problem, solutions: Sequence[str]) -> Problem:
    """One message of the user: the problem, the solutions as numbered from 0, and the request."""
    parts = [
        f"Here are a problem and {len(solutions)} solutions of it.",
        f"[Problem]\n\n{problem.text}",
        *(f"[Solution {number}]\n\n{solution.strip()}" for number, solution in enumerate(solutions)),
        _REQUEST,
    ]
    return problem.asking((Message(role="user", content="\n\n".join(parts)),))


def place(judgment: str, num_solutions: int) -> int | None:
    """The number of the solution that the last line names; None where it names none of them."""
    match = _JUDGMENT.fullmatch(judgment.rstrip().rpartition("\n")[2])
    return int(match[1]) if match is not None and int(match[1]) < num_solutions else None


def most_preferred(groups: Sequence[int | None], preferred: Sequence[int]) -> int | None:
    """Index of the candidate that speaks for the answer preferred most often: of its voters the one preferred most.

    `groups` has equal numbers for equal answers, `preferred` the index of each preference. All candidates together
    weigh less than one preference: they decide between answers that are preferred equally often, or where none is.
    """
    times = Counter(preferred)
    winner = majority_vote(groups, [times[index] + 1 / (len(groups) + 1) for index in range(len(groups))])
    voters = [index for index, group in enumerate(groups) if group == winner]
    return max(voters, key=lambda index: times[index], default=None)
