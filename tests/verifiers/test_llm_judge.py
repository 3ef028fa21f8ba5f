"""Facts about how a judge's rating is asked for and read."""

import pytest

from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Solution
from verifiers.llm_judge import LLMJudge, rating
from verifiers.weighing import Abstention

SOLUTION = Solution(problem=Problem.from_prompt("p", "1 + 1?"), steps=("One.\n\n", "Two.\n\n", "Three."), asked=(0, 2))


def test_each_asked_step_has_a_prompt_that_shows_nothing_beyond_it() -> None:
    first, last = LLMJudge().questions(SOLUTION)
    assert "Step 1: One.\n\nIs every step" in first.prompt and "Two" not in first.prompt
    assert "1 + 1?" in last.prompt and "Step 3: Three.\n\nIs every step" in last.prompt
    assert (first.asked, last.asked) == ((0,), (2,))


def test_a_rating_is_a_share_of_ten() -> None:
    question = LLMJudge().questions(SOLUTION)[0]
    chains = [f"The sum is off.\n\nRating: \\boxed{{{number}}}" for number in (0, 7, 10)]
    assert [LLMJudge().values(question, chain) for chain in chains] == [(0.0,), (0.7,), (1.0,)]


@pytest.mark.parametrize(
    "line", [r"Rating: \boxed{7}", r"**Rating:** \boxed{7}", r"Rating: $\boxed{7}$.", "Rating:  \\boxed{7}\n\n"]
)
def test_the_last_line_may_be_marked_up(line: str) -> None:
    chain = f"Rating: \\boxed{{1}}\nNo, better.\n{line}"
    assert rating(chain, 10) == ("7", chain.rindex("7"))


@pytest.mark.parametrize(
    "chain",
    [
        "",
        "7",
        "Rating: 7",
        r"\boxed{7}",
        r"Rating: \boxed{number}",
        r"Rating: \boxed{7.5}",
        r"Rating: \boxed{-1}",
        r"Rating: \boxed{11}",
        r"Rating: \boxed{7} or Rating: \boxed{8}",
        "Rating: \\boxed{7}\nThough I am not sure.",
    ],
)
def test_anything_else_on_the_last_line_abstains(chain: str) -> None:
    with pytest.raises(Abstention, match=r"got .* wanted"):
        rating(chain, 10)
