import pytest

from experiments.config import load_data
from experiments.data.graders import Grader, answers_of
from experiments.data.sets import data_config
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Comparison, Problem
from tests.fakes import ANSWERS
from verifiers import sandbox
from verifiers.sandbox import SandboxError

PROBLEM = Problem.from_prompt("p", "?")
RIGHT, WRONG = Comparison(equal=True), Comparison(equal=False)


def answers(**settings):
    return answers_of(data_config(settings))


async def test_exact_is_the_same_string():
    grader = Grader({"p": "12"}, ANSWERS)
    assert await grader.grade(PROBLEM, ["12", "12.5", None, "21"]) == [RIGHT, WRONG, WRONG, WRONG]


async def test_math_is_equivalence():
    async with answers(name="jsonl") as found:
        grader = Grader({"p": r"\frac{1}{2}"}, found)
        graded = await grader.grade(PROBLEM, ["0.5", r"\frac{2}{4}", "1/2", "0.6", None])
    assert graded == [RIGHT, RIGHT, RIGHT, WRONG, WRONG]


async def test_the_configuration_chooses_the_grader_and_where_answers_stand():
    async with answers(name="jsonl", grader="exact", answer={"regex": r"RESULT (\d+)"}) as found:
        assert found.extract("RESULT 1 and RESULT 2. Answer: 3") == "2"
        assert await found.compare("1/2", ["0.5"]) == [WRONG]
    async with answers(name="gsm8k") as found:
        assert found.extract("She has 5 and sells 3 of 18") == "18"  # as the task's own graders do
    async with answers(name="jsonl") as found:
        assert found.extract("She has 5 and sells 3 of 18") is None


async def test_a_choice_is_its_letter_however_it_is_written():
    async with answers(name="gpqa_diamond") as found:
        assert found.extract("(A) is too small. The correct answer is (C).") == "C"
        assert await found.compare("C", ["C", "(c)", "C) 18 m", "A", "18", None]) == [RIGHT] * 3 + [WRONG] * 3
        assert await found.group(["C", "(c)", "18", None, "18", "A"]) == [0, 0, 1, None, 1, 2]
    async with answers(name="jsonl", grader="choice") as found:
        assert found.extract("The answer is (B)") == "B"


def test_where_programs_can_not_be_confined_code_is_refused_before_its_data_is_read(monkeypatch):
    def missing(*args, **kwargs):
        raise SandboxError("wanted Linux")

    monkeypatch.setattr(sandbox, "run", missing)
    with pytest.raises(UserError, match=r"data\.grader: code runs programs in a sandbox, .*: wanted Linux"):
        load_data(data_config({"name": "humaneval", "path": "nowhere.jsonl"}))
