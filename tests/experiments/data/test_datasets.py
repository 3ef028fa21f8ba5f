import json

import pytest

from experiments.data.datasets import load_dataset
from experiments.data.sets import data_config
from orchestrator.core.errors import UserError


def load(**settings):
    return load_dataset(data_config(settings))


def write(tmp_path, *records):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_tinymath_problems_carry_their_difficulty_and_not_their_answer():
    dataset = load(name="tinymath", num_problems=5)
    assert len(dataset.examples) == 5
    for example in dataset.examples:
        assert example.problem.difficulty is not None
        assert example.reference.lstrip("-").isdigit()
        assert not hasattr(example.problem, "reference")


def test_gsm8k_takes_the_answer_after_the_marks(tmp_path):
    path = write(tmp_path, {"question": "How many?", "answer": "It is <<1+1=2>>2.\n#### 1,002"})
    [example] = load(name="gsm8k", path=path).examples
    assert example.problem.messages[0].content == "How many?"
    assert example.reference == "1,002"


def test_jsonl_reads_fields_by_their_names_into_a_prompt_template(tmp_path):
    record = {"problem": "1+1?", "answer": r"\frac{4}{2}", "level": "Level 4", "unique_id": "a/1.json"}
    dataset = load(
        name="jsonl",
        path=write(tmp_path, record),
        id_field="unique_id",
        difficulty_field="level",
        prompt_template="Solve: {problem}",
    )
    [example] = dataset.examples
    assert (example.problem.id, example.problem.difficulty) == ("a/1.json", 4.0)
    assert example.problem.messages[0].content == "Solve: 1+1?"
    assert example.reference == r"\frac{4}{2}"


def test_metadata_holds_the_named_fields_and_nothing_else(tmp_path):
    record = {"problem": "1+1?", "question": "1+1?", "answer": "#### 2", "tests": ["assert f() == 2"]}
    path = write(tmp_path, record)
    for name in ("jsonl", "gsm8k"):
        [example] = load(name=name, path=path).examples
        assert (example.problem.metadata, example.reference) == ({}, "2")
        [example] = load(name=name, path=path, metadata_fields=["tests"]).examples
        assert example.problem.metadata == {"tests": ["assert f() == 2"]}
    [example] = load(name="tinymath", num_problems=1, metadata_fields=["answer", "level"]).examples
    assert example.problem.metadata == {"answer": example.reference, "level": example.problem.difficulty}


@pytest.mark.parametrize("name", ["tinymath", "jsonl"])
def test_a_metadata_field_that_no_record_has_is_the_users_error(tmp_path, name):
    config = {"name": name}
    if name == "jsonl":
        config["path"] = write(tmp_path, {"problem": "1+1?", "answer": "2"})
    with pytest.raises(UserError, match=r"data\.metadata_fields: .* has no field 'test', it has .*answer"):
        load(**config, metadata_fields=["test"])


def test_num_problems_takes_the_first_ones(tmp_path):
    path = write(tmp_path, *[{"problem": f"{i}?", "answer": str(i)} for i in range(5)])
    dataset = load(name="jsonl", path=path, num_problems=2)
    assert [example.reference for example in dataset.examples] == ["0", "1"]


def test_an_empty_file_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="holds no problem"):
        load(name="jsonl", path=write(tmp_path))


def test_a_file_that_is_not_utf8_names_the_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"problem": "a", "answer": "1"}\n{"problem": "caf\xe9", "answer": "2"}\n')
    with pytest.raises(UserError, match=r"line 2 is not UTF-8 \(byte 16"):
        load(name="jsonl", path=str(path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "tinymth"}, "did you mean tinymath"),
        ({}, "data.name is missing, wanted one of tinymath, "),
        ({"name": 7}, "data.name: got 7, wanted one of"),
        ({"name": "tinymath", "split": "validation"}, "data: split: got 'validation', wanted train, dev, test"),
        ({"name": "tinymath", "path": "a"}, "data: tinymath has no setting 'path', it has name, .*a setting of gsm8k"),
        ({"name": "gsm8k", "problem_field": "q"}, "gsm8k has no setting 'problem_field'.* a setting of jsonl, json, c"),
        ({"name": "gsm8k", "num_problems": "x"}, "data: num_problems: Value 'x'"),
        ({"name": "gsm8k", "prompt_template": "Solve it."}, r"must contain {problem}, got 'Solve it.'"),
        ({"name": "jsonl"}, "data.path is missing"),
        ({"name": "jsonl", "path": "/no/such/file"}, "can't read"),
    ],
)
def test_a_bad_data_config_says_what_was_wanted(config, message):
    with pytest.raises(UserError, match=message):
        load(**config)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{not json", "line 1 is not JSON"),
        ("[1]", "line 1 must be a JSON object, got list"),
        ('{"question": "q", "answer": "1"}', "line 1 has no field 'problem', it has question, answer"),
        ('{"problem": "q"}', "line 1 has no field 'answer'"),
        ('{"problem": "q", "answer": null}', "line 1 has a bad 'answer': wanted a value, got null"),
        ('{"problem": "q", "answer": NaN}', "line 1 has a bad 'answer': wanted text or a finite number, got nan"),
        ('{"problem": "q", "answer": "  "}', "line 1 has a bad 'answer': .*got nothing but space"),
        (
            '{"problem": "q", "answer": {"value": 1}}',
            "line 1 has a bad 'answer': wanted text or a number, got {'value'",
        ),
        ('{"problem": "q", "answer": []}', r"line 1 has a bad 'answer': wanted at least one value, got \[\]"),
        ('{"problem": "q", "answer": ["1", null]}', r"line 1 has a bad 'answer\[1\]': wanted a value, got null"),
        ('{"problem": null, "answer": "1"}', "line 1 has a bad 'problem': wanted a value, got null"),
        ('{"problem": "q \\ud800", "answer": "1"}', "line 1 holds a lone surrogate"),
        ('{"problem": "q", "answer": "1", "notes": {"\\udfff": 1}}', "line 1 holds a lone surrogate"),
    ],
)
def test_a_bad_record_names_its_line(tmp_path, lines, message):
    path = tmp_path / "data.jsonl"
    path.write_text(lines)
    with pytest.raises(UserError, match=message):
        load(name="jsonl", path=str(path))


@pytest.mark.parametrize(
    ("level", "difficulty"), [("Level 4", 4.0), (7.5, 7.5), ("7.5", 7.5), ("1e3 points", 1000.0), (-2, -2.0)]
)
def test_a_difficulty_is_the_one_number_of_its_field(tmp_path, level, difficulty):
    path = write(tmp_path, {"problem": "1+1?", "answer": "2", "level": level})
    [example] = load(name="jsonl", path=path, difficulty_field="level").examples
    assert example.problem.difficulty == difficulty


@pytest.mark.parametrize("level", ["800-1200", "hard", "3 of 5", True, [1], float("nan")])
def test_a_difficulty_of_no_number_or_of_several_is_refused(tmp_path, level):
    path = write(tmp_path, {"problem": "1+1?", "answer": "2", "level": level})
    with pytest.raises(UserError, match="line 1 has a bad 'level': wanted a number or a text with one number"):
        load(name="jsonl", path=path, difficulty_field="level")


def test_a_list_of_answers_is_a_list_of_values(tmp_path):
    path = write(tmp_path, {"problem": "roots?", "answer": ["1", 2.5]}, {"problem": "true?", "answer": True})
    assert [e.reference for e in load(name="jsonl", path=path).examples] == ["1, 2.5", "True"]


def test_a_byte_order_mark_and_other_line_separators_are_read(tmp_path):
    path = tmp_path / "data.jsonl"
    record = {"problem": "one\u2028two\x0bthree?", "answer": "2"}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record, ensure_ascii=False).encode() + b"\r\n\r\n")
    [example] = load(name="jsonl", path=str(path)).examples
    assert example.problem.messages[0].content == record["problem"]


def test_bad_records_are_skipped_and_counted_where_that_is_asked(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"problem": "a", "answer": null}\n{"problem": "b", "answer": "1"}\n{"problem": "c", "answer": "2"}\n'
    )
    dataset = load(name="jsonl", path=str(path), skip_bad=True, num_problems=1)
    assert [example.problem.id for example in dataset.examples] == ["2"]
    assert len(dataset.skipped) == 1 and "line 1 has a bad 'answer'" in dataset.skipped[0]
    path.write_text('{"problem": "a", "answer": null}\n')
    with pytest.raises(UserError, match=r"holds no problem, wanted at least one; 1 were skipped, the first: .*line 1"):
        load(name="jsonl", path=str(path), skip_bad=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grader": "maths"}, "data: grader: got 'maths', wanted one of math, exact, choice, code for jsonl"),
        ({"answer": "boxd"}, "data: answer: got 'boxd', wanted one of .*did you mean boxed"),
        ({"answer": []}, "data: answer: wanted at least one rule"),
        ({"answer": {"regex": "("}}, r"data: answer: regex must be a regular expression"),
        ({"grader": "code", "answer": "boxed"}, "data: answer: got 'boxed', wanted code or program"),
        ({"answer": {"rule": "x"}}, r"data: answer: got .*, wanted one of"),
    ],
)
def test_how_answers_are_found_and_compared_is_checked_at_once(change, message):
    with pytest.raises(UserError, match=message):
        data_config({"name": "jsonl", **change})


def test_two_problems_with_one_id_are_refused(tmp_path):
    path = write(tmp_path, {"problem": "a", "answer": "1", "id": 7}, {"problem": "b", "answer": "2", "id": 7})
    with pytest.raises(UserError, match="got '7' more than once"):
        load(name="jsonl", path=path, id_field="id")
