import pytest

from experiments.graders import MathGrader, make_grader
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Problem

PROBLEM = Problem.from_prompt("p", "?")


async def test_exact_is_the_same_string():
    async with make_grader("exact", {"p": "12"}) as grader:
        assert await grader.grade(PROBLEM, ["12", "12.5", None, "21"]) == [True, False, False, False]


async def test_math_is_equivalence():
    async with make_grader("math", {"p": r"\frac{1}{2}"}) as grader:
        assert await grader.grade(PROBLEM, ["0.5", r"\frac{2}{4}", "1/2", "0.6", None]) == [
            True,
            True,
            True,
            False,
            False,
        ]


async def test_a_comparison_that_hangs_is_an_error_of_that_problem_alone(monkeypatch):
    async with MathGrader({"p": "1"}, timeout_s=0.001) as grader:  # the process can't even start in that time
        with pytest.raises(ProblemError, match="did not end within"):
            await grader.grade(PROBLEM, ["2"])
        grader._equivalence._timeout_s = 60.0
        assert await grader.grade(PROBLEM, ["1.0"]) == [True]


def test_an_unknown_grader_lists_the_valid_ones():
    with pytest.raises(UserError, match=r"got 'maths', wanted one of exact, math; did you mean math"):
        make_grader("maths", {})
