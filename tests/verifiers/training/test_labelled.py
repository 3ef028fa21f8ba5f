from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verifiers.training.labelled import LabelledSolution, read_labelled, write_labelled

SOLUTION = LabelledSolution(
    problem_id="p1", source="exact", prompt="1 + 1?", completions=("1 + 1 = 2", "Answer: 3"), labels=(1.0, 0.0)
)
SAMPLED = replace(
    SOLUTION,
    source="monte_carlo",
    labels=(0.75, None),
    prompt_ids=(1, 2),
    step_ids=((3, 4), (5,)),
    delimiters=("\n\n", ""),
    thinking=(True, False),
    truncated=False,
)


def test_what_is_written_is_read(tmp_path):
    write_labelled([SOLUTION, SAMPLED], tmp_path / "labels" / "part-0.parquet")
    write_labelled([SOLUTION], tmp_path / "labels" / "part-1.parquet")
    assert read_labelled(tmp_path / "labels" / "part-0.parquet") == [SOLUTION, SAMPLED]
    assert read_labelled(tmp_path / "labels") == [SOLUTION, SAMPLED, SOLUTION]
    assert [file.name for file in sorted((tmp_path / "labels").iterdir())] == ["part-0.parquet", "part-1.parquet"]


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": (1.0,)},
        {"completions": (), "labels": ()},
        {"labels": (1.0, 1.5)},
        {"prompt_ids": (1,)},
        {"thinking": (True,)},
        {"delimiters": ()},
    ],
)
def test_a_solution_that_does_not_fit_together_is_refused(changes):
    with pytest.raises(ValueError, match="labelled solution of p1: "):
        replace(SOLUTION, **changes)


def test_a_file_that_an_older_version_wrote_does_not_say_which_steps_are_thinking(tmp_path):
    write_labelled([SAMPLED], tmp_path / "new.parquet")
    older = pq.read_table(tmp_path / "new.parquet").drop_columns(["delimiters", "thinking", "truncated"])
    pq.write_table(older, tmp_path / "old.parquet")
    [read] = read_labelled(tmp_path / "old.parquet")
    assert read == replace(SAMPLED, delimiters=None, thinking=None, truncated=None)


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no Parquet file"):
        read_labelled(tmp_path)
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ValueError, match="can't read"):
        read_labelled(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"columns of .*, got x, wanted problem_id"):
        read_labelled(tmp_path)
