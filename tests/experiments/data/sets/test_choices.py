"""GPQA Diamond and MMLU-Pro in the form that they are published in."""

import csv
import json

import pytest

from experiments.data.datasets import load_dataset
from experiments.data.sets import data_config
from orchestrator.core.errors import UserError

GPQA = {
    "Record ID": "rec1",
    "Question": "Which is even?\n",
    "Correct Answer": "two\n",
    "Incorrect Answer 1": "one",
    "Incorrect Answer 2": "three",
    "Incorrect Answer 3": "five",
    "Explanation": "It is divisible by 2.",
}
MMLU_PRO = {
    "question_id": 70,
    "question": "Which is even?",
    "options": ["one", "two", "three"],
    "answer": "B",
    "answer_index": 1,
    "cot_content": "",
    "category": "math",
    "src": "x",
}


def load(tmp_path, name, *records, **settings):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return load_dataset(data_config({"name": name, "path": str(path), **settings})).examples


def gpqa(tmp_path, num, **settings):
    return load(tmp_path, "gpqa_diamond", *[{**GPQA, "Record ID": f"rec{i}"} for i in range(num)], **settings)


def test_gpqa_is_asked_as_its_paper_asks(tmp_path):
    [example] = gpqa(tmp_path, 1)
    prompt = example.problem.messages[0].content
    assert prompt.startswith("What is the correct answer to this question: Which is even?\n\nChoices:\n(A) ")
    assert prompt.endswith(
        'Think step by step, then format your response as follows: "The correct answer is (insert answer here)"'
    )
    assert f"({example.reference}) two\n" in prompt
    assert example.problem.id == "rec0"


def test_choices_are_shuffled_by_the_seed_and_each_question_by_itself(tmp_path):
    letters = [example.reference for example in gpqa(tmp_path, 40)]
    assert set(letters) == set("ABCD")
    assert letters == [example.reference for example in gpqa(tmp_path, 40, choice_seed=0)]
    assert letters != [example.reference for example in gpqa(tmp_path, 40, choice_seed=1)]
    assert letters[:3] == [example.reference for example in gpqa(tmp_path, 3)], "whatever the others are"


def test_every_choice_is_shown_once_under_a_letter_of_its_own(tmp_path):
    for example in gpqa(tmp_path, 10):
        lines = example.problem.messages[0].content.split("Choices:\n")[1].split("\n")[:4]
        assert [line[:4] for line in lines] == ["(A) ", "(B) ", "(C) ", "(D) "]
        assert sorted(line[4:] for line in lines) == ["five", "one", "three", "two"]


def test_gpqa_is_read_from_its_csv(tmp_path):
    path = tmp_path / "gpqa_diamond.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(GPQA))
        writer.writeheader()
        writer.writerow(GPQA)
    [example] = load_dataset(data_config({"name": "gpqa_diamond", "path": str(path)})).examples
    assert example.problem.id == "rec1"


def test_mmlu_pro_is_asked_as_its_paper_asks(tmp_path):
    [example] = load(tmp_path, "mmlu_pro", MMLU_PRO)
    assert example.problem.messages[0].content == (
        "The following are multiple choice questions (with answers) about math. Think step by step and then finish "
        'your answer with "the answer is (X)" where X is the correct letter choice.\n\n'
        "Question: Which is even?\nOptions:\nA. one\nB. two\nC. three\nAnswer: Let's think step by step."
    )
    assert (example.problem.id, example.reference) == ("70", "B")


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("gpqa_diamond", {**GPQA, "Correct Answer": None}, "has a bad 'Correct Answer': wanted a value, got null"),
        ("gpqa_diamond", {"question": "q"}, "has no field 'Record ID', it has question"),
        ("mmlu_pro", {**MMLU_PRO, "answer": "D"}, "bad 'answer': wanted the letter of one of 3 options, got 'D'"),
        ("mmlu_pro", {**MMLU_PRO, "answer": "two"}, "bad 'answer': wanted the letter of one of 3 options, got 'two'"),
        ("mmlu_pro", {**MMLU_PRO, "options": "['one', 'two']"}, "bad 'options': wanted a list of texts"),
        ("mmlu_pro", {**MMLU_PRO, "options": []}, r"bad 'options': wanted a list of texts, got \[\]"),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, name, record, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, name, record)


def test_a_file_of_ones_own_names_the_letter(tmp_path):
    record = {"problem": "A or B?", "answer": "(b)"}
    [example] = load(tmp_path, "jsonl", record, grader="choice")
    assert example.reference == "B"
    with pytest.raises(UserError, match="bad 'answer': wanted the letter of a choice, got 'two'"):
        load(tmp_path, "jsonl", {**record, "answer": "two"}, grader="choice")
