"""Downloads, with a library in the place of `datasets` that reaches nothing."""

import sys
from types import SimpleNamespace

import pytest

from experiments.data.datasets import load_dataset
from experiments.data.sets import DATASETS, data_config
from orchestrator.core.errors import UserError

MATH = {"problem": "1+1?", "answer": "2", "id": "0", "unique_id": "u", "level": 3}


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the library, which answers with a record of each data set."""
    calls = []

    def load(repository, config=None, *, split, data_files=None):
        calls.append((repository, config, split, data_files))
        if repository == "Maxwell-Jia/AIME_2024":
            return [{"ID": "2024-I-1", "Problem": "1+1?", "Answer": 2}]
        return [{"question": "1+1?", **MATH}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    return calls


@pytest.mark.parametrize(
    ("settings", "tables"),
    [
        ({"name": "gsm8k", "split": "train"}, [("openai/gsm8k", "main", "train")]),
        ({"name": "math500"}, [("HuggingFaceH4/MATH-500", None, "test")]),
        ({"name": "aime"}, [("Maxwell-Jia/AIME_2024", None, "train"), ("math-ai/aime25", None, "test")]),
        ({"name": "aime", "years": [2025]}, [("math-ai/aime25", None, "test")]),
        ({"name": "amc"}, [("AI-MO/aimo-validation-amc", None, "train")]),
    ],
)
def test_without_a_path_the_published_tables_are_read(asked, settings, tables):
    dataset = load_dataset(data_config(settings))
    assert [call[:3] for call in asked] == tables
    assert [example.reference for example in dataset.examples] == ["2"] * len(tables)


def test_a_release_of_livecodebench_is_its_first_files():
    [table] = DATASETS["livecodebench"](name="livecodebench", release="release_v2").tables
    assert (table.repository, table.files) == ("livecodebench/code_generation_lite", ("test.jsonl", "test2.jsonl"))


def test_files_of_a_repository_are_read_as_json_lines(asked):
    with pytest.raises(UserError, match="code_generation_lite record 1 has no field 'question_content'"):
        load_dataset(data_config({"name": "livecodebench", "release": "release_v1"}))
    assert asked == [("json", None, "train", ["hf://datasets/livecodebench/code_generation_lite/test.jsonl"])]


def test_a_record_of_another_form_names_its_place(asked):
    with pytest.raises(UserError, match="Idavidrein/gpqa record 1 has no field 'Record ID', it has question, problem"):
        load_dataset(data_config({"name": "gpqa_diamond"}))


def test_without_the_library_a_path_is_wanted(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"data\.path is missing, .*datasets.*openai/gsm8k.*headrace\[train\]"):
        load_dataset(data_config({"name": "gsm8k"}))


def test_a_download_that_fails_says_why_and_what_else_there_is(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route to the\nhub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(
        UserError, match=r"can't download openai/gsm8k: ConnectionError: no route to the hub; .*data.path"
    ):
        load_dataset(data_config({"name": "gsm8k"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "gsm8k", "split": "dev"}, "data: split: got 'dev', wanted train or test"),
        ({"name": "mbpp", "split": "dev"}, "data: split: got 'dev', wanted one of test, train, validation, prompt"),
        ({"name": "aime", "years": [2023]}, r"data: years: wanted some of 2024, 2025, got \[2023\]"),
        ({"name": "aime", "years": []}, r"data: years: wanted some of 2024, 2025, got \[\]"),
        ({"name": "aime", "years": [2024], "path": "a"}, "choose what is downloaded, got .2024. and path"),
        ({"name": "livecodebench", "release": "v6"}, "release: got 'v6', wanted one of release_v1, "),
        ({"name": "gpqa_diamond", "choice_seed": -1}, "choice_seed: wanted a seed >= 0, got -1"),
        ({"name": "math500", "grader": "code"}, "grader: got 'code', wanted one of math, exact for math500"),
    ],
)
def test_a_setting_of_one_data_set_is_checked_before_anything_is_downloaded(settings, message):
    with pytest.raises(UserError, match=message):
        data_config(settings)
