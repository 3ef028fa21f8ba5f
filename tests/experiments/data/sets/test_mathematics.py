"""GSM8K, MATH-500, AIME and AMC in the form that they are published in."""

import json

import pytest

from experiments.data.datasets import load_dataset
from experiments.data.graders import answers_of
from experiments.data.sets import data_config
from orchestrator.core.errors import UserError

BOXED = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
MATH500 = {
    "problem": "What is $1+1$?",
    "solution": "It is $\\boxed{2}$.",
    "answer": "2",
    "subject": "Algebra",
    "level": 3,
    "unique_id": "test/algebra/1.json",
}
AIME_2024 = {"ID": "2024-I-4", "Problem": "What is $1+1$?", "Solution": "...", "Answer": 33}
AIME_2025 = {"id": "0", "problem": "What is $1+1$?", "answer": "070"}
AMC = {"id": 1, "problem": "What is $1+1$?", "answer": 142.0, "url": "..."}


@pytest.fixture
def load(tmp_path):
    """A data set's examples of the given records."""

    def load(name, *records, **settings):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        return load_dataset(data_config({"name": name, "path": str(path), **settings})).examples

    return load


def test_gsm8k_asks_the_question_as_it_is(load):
    [example] = load("gsm8k", {"question": "How many?", "answer": "It is <<1+1=2>>2.\n#### 1,002"})
    assert (example.problem.messages[0].content, example.reference) == ("How many?", "1,002")


@pytest.mark.parametrize(
    ("name", "record", "id", "reference", "difficulty"),
    [
        ("math500", MATH500, "test/algebra/1.json", "2", 3.0),
        ("math500", {**MATH500, "level": "Level 5"}, "test/algebra/1.json", "2", 5.0),
        ("aime", AIME_2024, "2024-I-4", "33", None),
        ("aime", AIME_2025, "0", "70", None),
        ("amc", AMC, "1", "142", None),
        ("amc", {**AMC, "answer": 0.5}, "1", "0.5", None),
    ],
)
def test_mathematics_is_asked_for_in_a_box(load, name, record, id, reference, difficulty):
    [example] = load(name, record)
    assert example.problem.messages[0].content == f"What is $1+1$?{BOXED}"
    assert (example.problem.id, example.reference, example.problem.difficulty) == (id, reference, difficulty)
    assert example.problem.metadata == {}


def test_a_template_of_ones_own_takes_the_place_of_the_papers(load):
    [example] = load("math500", MATH500, prompt_template="Solve {problem}")
    assert example.problem.messages[0].content == "Solve What is $1+1$?"


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("math500", {"question": "q"}, "line 1 has no field 'problem', it has question"),
        ("math500", {**MATH500, "level": "hard"}, "line 1 has a bad 'level'"),
        ("aime", {**AIME_2024, "Answer": 1000}, "has a bad 'Answer': wanted a whole number from 0 to 999, got 1000"),
        ("aime", {**AIME_2025, "answer": "1.5"}, "has a bad 'answer': wanted a whole number from 0 to 999, got 1.5"),
        ("amc", {**AMC, "answer": "(A)"}, "has a bad 'answer': wanted a number"),
    ],
)
def test_a_record_of_another_form_is_refused(load, name, record, message):
    with pytest.raises(UserError, match=message):
        load(name, record)


async def test_answers_are_found_in_boxes_and_compared_as_mathematics():
    async with answers_of(data_config({"name": "aime"})) as answers:
        assert answers.extract("So $x = 33$ and the answer is $\\boxed{033}$.") == "033"
        assert [found.equal for found in await answers.compare("33", ["033", "33.0", "34"])] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "record", "first", "last"),
    [
        ("gsm8k", {"question": "How many?", "answer": "#### 2"}, "Q: There are 15 trees", "Q: How many?"),
        ("math500", MATH500, "Problem:\nFind the domain", "Problem:\nWhat is $1+1$?\n"),
    ],
)
def test_worked_examples_come_before_a_problem_where_they_are_asked_for(load, name, record, first, last):
    [example] = load(name, record, shots=2)
    messages = example.problem.messages
    assert len(messages) == 5 and messages[0].content.startswith(first) and messages[-1].content == last
    assert len(load(name, record)[0].problem.messages) == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"name": "gsm8k", "shots": 9}, r"shots must be in 0\.\.8 for gsm8k, got 9"),
        ({"name": "math500", "shots": 5}, r"shots must be in 0\.\.4 for math500, got 5"),
        ({"name": "gsm8k", "shots": 1, "prompt_template": "{problem}!"}, "wanted no prompt_template with them"),
    ],
)
def test_shots_that_there_are_not_are_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        data_config(settings)
