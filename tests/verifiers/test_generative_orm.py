"""Facts about how a verdict on a whole solution is asked for and read."""

import pytest

from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Solution
from verifiers import VERIFIERS
from verifiers.generative_orm import GenerativeORM, final_verdict
from verifiers.weighing import Abstention

QUESTION = "Verification: Is the answer correct (Yes/No)?"
STEPS = ("One.\n\n", "Two.\n\n", "Three.")


def solution(asked: tuple[int, ...] = (2,), *, problem: Problem | None = None) -> Solution:
    return Solution(problem=problem or Problem.from_prompt("p", "1 + 1?"), steps=STEPS, asked=asked, ended=True)


def test_one_prompt_shows_the_whole_solution_as_it_was_written() -> None:
    [question] = GenerativeORM().questions(solution())
    assert "\n\n1 + 1?\n\n" in question.prompt
    assert "\n\nOne.\n\nTwo.\n\nThree.\n\nIs the final answer" in question.prompt and "Step 1" not in question.prompt
    assert (question.asked, question.num_steps) == ((2,), 3)


def test_a_problem_of_several_messages_is_shown_with_its_roles() -> None:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="1 + 1?"))
    [question] = GenerativeORM().questions(solution(problem=Problem(id="p", messages=messages)))
    assert "system: Be brief.\n\nuser: 1 + 1?" in question.prompt


@pytest.mark.parametrize("asked", [(0, 2), (1,)])
def test_it_is_never_asked_about_a_step(asked: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="whole solutions only"):
        GenerativeORM().questions(solution(asked))
    assert not VERIFIERS["generative_orm"].scores_steps


def test_a_verdict_is_one_or_zero() -> None:
    [question] = GenerativeORM().questions(solution())
    assert GenerativeORM().values(question, f"All is well.\n{QUESTION} Yes") == (1.0,)
    assert GenerativeORM().values(question, f"Step two is off.\n{QUESTION} No") == (0.0,)


@pytest.mark.parametrize(
    "line",
    [f"{QUESTION} Yes", f"**{QUESTION}** Yes.", f"{QUESTION} **Yes**\n\n", f"**Verification:** {QUESTION[14:]} Yes"],
)
def test_the_last_line_may_be_marked_up(line: str) -> None:
    chain = f"{QUESTION} No\nNo, better.\n{line}"
    assert final_verdict(chain) == ("Yes", chain.rindex("Yes"))


@pytest.mark.parametrize(
    "chain",
    [
        "",
        "Yes",
        "Verification: Yes",
        f"{QUESTION}",
        f"{QUESTION} X",
        f"{QUESTION} Yes/No",
        f"{QUESTION} Yes, but step two is unclear",
        f"{QUESTION} Yes {QUESTION} No",
        f"{QUESTION} Yes\nThough I am not sure.",
    ],
)
def test_anything_else_on_the_last_line_abstains(chain: str) -> None:
    with pytest.raises(Abstention, match=r"got .* wanted"):
        final_verdict(chain)
