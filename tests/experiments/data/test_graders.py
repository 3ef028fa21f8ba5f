from experiments.data.datasets import DataConfig
from experiments.data.graders import Grader, answers_of
from orchestrator.core.nouns import Comparison, Problem
from tests.fakes import ANSWERS

PROBLEM = Problem.from_prompt("p", "?")
RIGHT, WRONG = Comparison(equal=True), Comparison(equal=False)


async def test_exact_is_the_same_string():
    grader = Grader({"p": "12"}, ANSWERS)
    assert await grader.grade(PROBLEM, ["12", "12.5", None, "21"]) == [RIGHT, WRONG, WRONG, WRONG]


async def test_math_is_equivalence():
    async with answers_of(DataConfig(name="jsonl")) as answers:
        grader = Grader({"p": r"\frac{1}{2}"}, answers)
        found = await grader.grade(PROBLEM, ["0.5", r"\frac{2}{4}", "1/2", "0.6", None])
    assert found == [RIGHT, RIGHT, RIGHT, WRONG, WRONG]


async def test_the_configuration_chooses_the_grader_and_where_answers_stand():
    async with answers_of(DataConfig(name="jsonl", grader="exact", answer={"regex": r"RESULT (\d+)"})) as answers:
        assert answers.extract("RESULT 1 and RESULT 2. Answer: 3") == "2"
        assert await answers.compare("1/2", ["0.5"]) == [WRONG]
    async with answers_of(DataConfig(name="gsm8k")) as answers:
        assert answers.extract("She has 5 and sells 3 of 18") == "18"  # as the task's own graders do
    async with answers_of(DataConfig(name="jsonl")) as answers:
        assert answers.extract("She has 5 and sells 3 of 18") is None
