"""Files of records in four formats."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.data.datasets import load_dataset
from experiments.data.files import file_records
from experiments.data.sets import data_config
from orchestrator.core.errors import UserError

RECORDS = [{"id": "a", "problem": "1+1?\nNow.", "answer": "2"}, {"id": "b", "problem": "é, 2+2?", "answer": "4"}]


def written(folder, format, name="data"):
    path = folder / f"{name}.{format}"
    if format == "jsonl":
        path.write_text("".join(f"{json.dumps(record)}\n" for record in RECORDS))
    elif format == "json":
        path.write_text(json.dumps(RECORDS, indent=2))
    elif format == "csv":
        path.write_text('\ufeffid,problem,answer\r\na,"1+1?\nNow.",2\r\nb,"é, 2+2?",4\r\n')
    else:
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    return str(path)


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_records(tmp_path, format):
    path = written(tmp_path, format)
    assert [dict(record.fields) for record in file_records(path)] == RECORDS
    dataset = load_dataset(data_config({"name": format, "path": path, "id_field": "id"}))
    assert [(e.problem.id, e.problem.messages[0].content, e.reference) for e in dataset.examples] == [
        ("a", "1+1?\nNow.", "2"),
        ("b", "é, 2+2?", "4"),
    ]


def test_the_data_sets_name_says_the_format_and_the_files_name_does_where_that_says_none(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text(json.dumps(RECORDS))
    assert len(load_dataset(data_config({"name": "json", "path": str(path)})).examples) == 2
    gsm8k = tmp_path / "gsm8k.parquet"
    pq.write_table(pa.Table.from_pylist([{"question": "1+1?", "answer": "It is 2.\n#### 2"}]), gsm8k)
    [example] = load_dataset(data_config({"name": "gsm8k", "path": str(gsm8k)})).examples
    assert example.reference == "2"


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("json", b'{"problem": "a"}', "must be a JSON list of records, got dict"),
        ("json", b'{"problem": "a"}\n{"problem": "b"}', "is not JSON: .*JSON Lines is name: jsonl"),
        ("json", b"[\xe9]", r"is not UTF-8 \(byte 1"),
        ("json", b'["a"]', "record 1 must be a JSON object, got str"),
        ("json", b'[{"problem": "\\ud800"}]', "record 1 holds a lone surrogate"),
        ("csv", b"problem,answer\na,1,2\n", "record 1 has more fields than the first line names"),
        ("csv", b"problem,answer\na\n", "record 1 has a bad 'answer': wanted a value, got null"),
        ("csv", b"problem,answer\na,\n", "record 1 has a bad 'answer': .*got nothing but space"),
        ("csv", b'problem,answer\n"a,1\n', "is not CSV: line .: unexpected end of data"),
        ("csv", b"question,answer\na,1\n", "record 1 has no field 'problem', it has question, answer"),
        ("parquet", b"not a table", "is not Parquet"),
        ("csv", None, "can't read"),
        ("parquet", None, "can't read"),
    ],
)
def test_what_can_not_be_read_says_where_and_why(tmp_path, format, content, message):
    path = tmp_path / f"data.{format}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_dataset(data_config({"name": format, "path": str(path)}))


def test_a_parquet_row_that_does_not_fit_names_its_number(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist([RECORDS[0], {"problem": "c", "answer": None}]), path)
    with pytest.raises(UserError, match=r"data\.parquet row 2 has a bad 'answer': wanted a value, got null"):
        load_dataset(data_config({"name": "parquet", "path": str(path)}))
