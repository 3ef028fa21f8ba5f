from dataclasses import replace

import pytest

from experiments.labelling.writer import Cost, LabelWriter
from orchestrator.core.errors import UserError
from orchestrator.results import folder
from verifiers.training.labelled import LabelledSolution, read_labelled

COST = Cost(solutions=2, steps=2, rollouts=8, rollout_tokens=40, flops=1e6, wall_s=0.5)


def solutions(problem):
    made = LabelledSolution(problem_id=problem, source="x", prompt="?", completions=("a",), labels=(0.25,))
    return [made, replace(made, labels=(None,))]


def open_writer(folder, run_yaml="k: 8\n", **options):
    return LabelWriter.open(folder, run_yaml=run_yaml, versions={"headrace": "0"}, **options)


def fill(folder, *problems, **options):
    with open_writer(folder, **options) as writer:
        for problem in problems:
            writer.add(solutions(problem), COST)
        return writer


def test_a_folder_is_filled_over_several_runs_without_repeats(tmp_path):
    path = tmp_path / "labels"
    fill(path, "p1", "p2")
    with open_writer(path, resume=True) as writer:
        assert writer.done() == {"p1", "p2"} and writer.cost == COST + COST
        with pytest.raises(ValueError, match="p1 was already labelled"):
            writer.add(solutions("p1"), COST)
        writer.add(solutions("p3"), COST)
        assert writer.cost.rollouts == 24
    assert read_labelled(path) == [*solutions("p1"), *solutions("p2"), *solutions("p3")]
    assert len(list(path.glob("*.parquet"))) == 2
    assert fill(path, resume=True).cost == COST + COST + COST


def test_what_was_labelled_is_replaced_only_when_asked(tmp_path):
    fill(tmp_path, "p1")
    with pytest.raises(UserError, match="already holds results; wanted --resume"):
        open_writer(tmp_path)
    with pytest.raises(UserError, match="belongs to another run, which differs in k"):
        open_writer(tmp_path, run_yaml="k: 4\n", resume=True)
    fill(tmp_path, "p2", overwrite=True)
    assert {solution.problem_id for solution in read_labelled(tmp_path)} == {"p2"}


def test_a_kill_between_the_two_files_of_a_shard_leaves_neither_half_a_problem_nor_two(tmp_path, monkeypatch):
    fill(tmp_path, "p1")
    real = folder.write_parquet

    def killed(path, table):
        if path.parent == tmp_path:
            raise KeyboardInterrupt
        real(path, table)

    monkeypatch.setattr(folder, "write_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, "p2", resume=True)
    monkeypatch.undo()
    assert read_labelled(tmp_path) == solutions("p1") and (tmp_path / "costs" / "part-000001.parquet").exists()
    with open_writer(tmp_path, resume=True) as writer:
        assert writer.done() == {"p1"} and writer.cost == COST
        writer.add(solutions("p2"), COST)
    assert read_labelled(tmp_path) == [*solutions("p1"), *solutions("p2")]


def test_a_damaged_shard_is_refused_by_name_and_the_folder_let_go(tmp_path):
    fill(tmp_path, "p1")
    shard = tmp_path / "part-000000.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    for _ in range(2):
        with pytest.raises(UserError, match=r"can't read .*part-000000\.parquet"):
            open_writer(tmp_path, resume=True)


def test_a_copied_shard_is_refused(tmp_path):
    fill(tmp_path, "p1")
    for shard in (tmp_path / "part-000000.parquet", tmp_path / "costs" / "part-000000.parquet"):
        shard.with_name("part-000007.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(UserError, match=r"part-000007.parquet holds p1, and so does .*; was a shard copied?"):
        open_writer(tmp_path, resume=True)


def test_half_a_character_is_stored_as_a_replacement(tmp_path):
    with open_writer(tmp_path) as writer:
        writer.add([replace(solution, completions=("a\ud800",)) for solution in solutions("p1")], COST)
    assert [solution.completions for solution in read_labelled(tmp_path)] == [("a\ufffd",)] * 2
