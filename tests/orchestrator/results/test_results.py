import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from orchestrator.core.errors import UserError
from orchestrator.results import (
    CANDIDATES_SCHEMA,
    PROBLEMS_SCHEMA,
    CandidateRow,
    ProblemRow,
    ResultsWriter,
    read_results,
    to_json,
)
from orchestrator.results import folder as folder_module
from orchestrator.results import shards as shards_module
from orchestrator.results.files import read_parquet, write_parquet

CONFIG = "policy:\n  model: tiny\nstrategies:\n- {name: best_of_n, n: 4}\nray:\n  address: null\n"


def problem_row(name: str, **changes: Any) -> ProblemRow:
    row = ProblemRow(
        run_id="run",
        problem_id=name,
        difficulty=3.0,
        strategy="best_of_n",
        params=to_json({"n": 2, "aggregation": "last"}),
        label="best_of_n n=2",
        n=2,
        seed=0,
        answer="7",
        correct=True,
        undecided=None,
        score=0.9,
        status="ok",
        end_reason="completed",
        selection="score",
        error=None,
        prompt_tokens=20,
        cached_tokens=10,
        generated_tokens=60,
        thinking_tokens=1,
        discarded_tokens=3,
        speculative_tokens=4,
        verifier_tokens=80,
        reingested_tokens=0,
        policy_flops=1e9,
        verifier_flops=2e8,
        num_candidates=2,
        peak_state_bytes=1000,
        queue_s=0.1,
        engine_s=0.7,
        verifier_s=0.2,
        wall_s=0.5,
        policy_model="tiny",
        verifier_model=None,
        version="0",
        detail="{}",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        finished_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    return replace(row, **changes)


def failed_row(name: str) -> ProblemRow:
    return problem_row(name, answer=None, correct=None, score=None, status="error", error="no room", num_candidates=0)


def candidate_rows(name: str) -> list[CandidateRow]:
    return [
        CandidateRow(
            run_id="run",
            problem_id=name,
            strategy="best_of_n",
            params=to_json({"n": 2, "aggregation": "last"}),
            label="best_of_n n=2",
            seed=0,
            candidate=index,
            token_ids=(5, 6, 7),
            text=f"solution {index}\n\nAnswer: 7",
            answer="7",
            answer_group=0,
            correct=True,
            undecided=None,
            chosen=index == 0,
            status="finished",
            step_scores=(0.5, None),
            step_uncertainties=(0.1, None),
            step_token_counts=(1, 2),
            step_logprobs=(-0.5, None),
            step_confidences=None,
            step_entropies=None,
            step_self_certainties=None,
            token_confidences=None,
            aggregate_score=0.5,
            unjudged=None,
            prompt_tokens=10,
            cached_tokens=5,
            generated_tokens=3,
            thinking_tokens=None,
            discarded_tokens=0,
            speculative_tokens=0,
            verifier_tokens=3,
            reingested_tokens=0,
            policy_flops=5e8,
            verifier_flops=1e8,
            queue_s=0.05,
            engine_s=0.35,
        )
        for index in range(2)
    ]


def open_writer(folder: Path, run_yaml: str = CONFIG, **options: Any) -> ResultsWriter:
    return ResultsWriter.open(folder, run_yaml=run_yaml, versions={"headrace": "0"}, **options)


def write(folder: Path, names: Sequence[str], failed: Sequence[str] = (), **options: Any) -> None:
    with open_writer(folder, **options) as writer:
        for name in names:
            if name in failed:
                writer.add(failed_row(name), [])
            else:
                writer.add(problem_row(name), candidate_rows(name))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, with its bytes."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files.pop(".lock", None)
    return files


def assert_consistent(problems: pd.DataFrame, candidates: pd.DataFrame) -> None:
    key = ["problem_id", "strategy", "params", "seed"]
    assert not problems.duplicated(key).any()
    assert not candidates.duplicated([*key, "candidate"]).any()
    assert set(candidates["problem_id"]) <= set(problems["problem_id"])
    finished = problems[problems["status"] == "ok"]
    held = candidates.groupby("problem_id").size().reindex(finished["problem_id"], fill_value=0)
    assert held.tolist() == finished["num_candidates"].tolist()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    write(folder, ["p0", "p1", "p2"], failed=["p2"])
    problems, candidates = read_results(folder)
    for wanted, got in zip(
        [problem_row("p0"), problem_row("p1"), failed_row("p2")], problems.to_dict("records"), strict=True
    ):
        for field in fields(ProblemRow):
            value = getattr(wanted, field.name)
            assert pd.isna(got[field.name]) if value is None else got[field.name] == value, field.name
    row = candidates.iloc[1]
    assert (row["problem_id"], row["candidate"], row["chosen"]) == ("p0", 1, False)
    assert row["token_ids"].tolist() == [5, 6, 7]
    assert row["step_scores"][0] == 0.5 and pd.isna(row["step_scores"][1])  # not scored is null, never 0.0
    assert (folder / "run.yaml").read_text() == CONFIG
    assert (folder / "versions.json").read_text() == '{\n  "headrace": "0"\n}\n'


def test_row_fields_are_the_columns() -> None:
    assert sorted(f.name for f in fields(ProblemRow)) == sorted(PROBLEMS_SCHEMA.names)
    assert sorted(f.name for f in fields(CandidateRow)) == sorted(CANDIDATES_SCHEMA.names)


def test_equal_params_are_equal_strings() -> None:
    assert to_json({"b": 1, "a": [2]}) == to_json({"a": [2], "b": 1}) == '{"a": [2], "b": 1}'


def test_rows_are_on_disk_after_so_many_problems(tmp_path: Path) -> None:
    with open_writer(tmp_path, flush_problems=2, flush_seconds=1e9) as writer:
        writer.add(problem_row("p0"), candidate_rows("p0"))
        with pytest.raises(UserError, match="holds no rows yet"):
            read_results(tmp_path)
        writer.add(problem_row("p1"), candidate_rows("p1"))
        assert len(read_results(tmp_path)[0]) == 2  # readable while the run goes on


def test_rows_are_on_disk_after_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(shards_module.time, "monotonic", lambda: now)
    with open_writer(tmp_path, flush_problems=1000, flush_seconds=5.0) as writer:
        now += 4.9
        writer.add(problem_row("p0"), [])
        assert not list(tmp_path.glob("problems/*"))
        now += 0.1
        writer.add(problem_row("p1"), [])
        assert len(list(tmp_path.glob("problems/*"))) == 1


def test_a_row_is_on_disk_without_another_that_pushes_it(tmp_path: Path) -> None:
    with open_writer(tmp_path, flush_seconds=0.05) as writer:
        writer.add(problem_row("p0"), candidate_rows("p0"))
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("problems/*.parquet")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        writer.add(problem_row("p1"), candidate_rows("p1"))
    assert_consistent(*read_results(tmp_path))


def test_a_copied_shard_is_refused_by_readers_and_by_a_resume(tmp_path: Path) -> None:
    write(tmp_path, ["p0"])
    for kind in ("problems", "candidates"):
        shard = tmp_path / kind / "part-000000.parquet"
        shard.with_name("part-000007.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(UserError, match=r"problems/part-000007.parquet holds .*p0.*, and so does .*; was a shard"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="was a shard copied"):
        open_writer(tmp_path, resume=True)


def test_candidates_of_another_shard_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["p0", "p1"], flush_problems=1)
    shards = tmp_path / "candidates"
    (shards / "part-000001.parquet").write_bytes((shards / "part-000000.parquet").read_bytes())
    with pytest.raises(UserError, match=r"holds candidates of .*p0.*, which .* does not"):
        read_results(tmp_path)


def test_a_flipped_bit_in_the_data_is_never_read_as_data(tmp_path: Path) -> None:
    write(tmp_path, ["p0", "p1"])
    wanted = read_results(tmp_path)
    shard = tmp_path / "candidates" / "part-000000.parquet"
    data, refused = shard.read_bytes(), 0
    for position in range(4, len(data), 97):
        shard.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            found = read_results(tmp_path)
        except UserError:
            refused += 1
        else:
            pd.testing.assert_frame_equal(found[1], wanted[1])
    assert refused


def test_half_a_character_is_stored_as_a_replacement(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        writer.add(problem_row("p0", answer="7\ud800"), [replace(row, text="\udfff!") for row in candidate_rows("p0")])
    problems, candidates = read_results(tmp_path)
    assert (problems["answer"][0], candidates["text"][0]) == ("7\ufffd", "\ufffd!")


def test_nullable_columns_that_older_runs_lack_are_null(tmp_path: Path) -> None:
    write(tmp_path, ["p0"])
    shard = tmp_path / "problems" / "part-000000.parquet"
    table = read_parquet(shard, PROBLEMS_SCHEMA)
    write_parquet(shard, table.drop_columns(["selection"]))
    assert read_results(tmp_path)[0]["selection"].isna().all()
    write_parquet(shard, table.drop_columns(["version"]))
    with pytest.raises(UserError, match="its columns differ"):
        read_results(tmp_path)


def test_a_second_row_with_one_key_is_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        writer.add(problem_row("p0"), [])
        with pytest.raises(ValueError, match="already written"):
            writer.add(problem_row("p0"), [])
        writer.add(problem_row("p0", seed=1), [])
    assert len(read_results(tmp_path)[0]) == 2


def test_a_row_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        writer.add(problem_row("p0"), candidate_rows("p0"))
        with pytest.raises(ValueError, match="version must not be None"):
            writer.add(problem_row("p1", version=None), [])
        with pytest.raises(ValueError, match="wanted candidates of"):
            writer.add(problem_row("p1"), candidate_rows("p0"))
        writer.add(problem_row("p1"), candidate_rows("p1"))
    assert_consistent(*read_results(tmp_path))


def test_resume_continues_where_the_run_stopped(tmp_path: Path) -> None:
    write(tmp_path, ["p0", "p1"], flush_problems=1)
    before = tree(tmp_path)
    with open_writer(tmp_path, resume=True) as writer:
        assert writer.done_keys() == {problem_row("p0").key, problem_row("p1").key}
        writer.add(problem_row("p2"), candidate_rows("p2"))
        assert problem_row("p2").key in writer.done_keys()
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before  # finished rows are not touched
    problems, candidates = read_results(tmp_path)
    assert_consistent(problems, candidates)
    assert problems["problem_id"].tolist() == ["p0", "p1", "p2"]


def test_resume_of_a_new_folder_starts_a_run(tmp_path: Path) -> None:
    write(tmp_path / "run", ["p0"], resume=True)
    assert len(read_results(tmp_path / "run")[0]) == 1


def test_resume_tries_errors_again_and_keeps_one_row(tmp_path: Path) -> None:
    write(tmp_path, ["p0", "p1", "p2", "p3"], failed=["p1", "p2", "p3"], flush_problems=2)
    with open_writer(tmp_path, resume=True) as writer:
        assert writer.done_keys() == {problem_row("p0").key}
        writer.add(problem_row("p1"), candidate_rows("p1"))
        writer.add(failed_row("p2"), [])
    problems, candidates = read_results(tmp_path)
    assert_consistent(problems, candidates)
    assert dict(zip(problems["problem_id"], problems["status"], strict=True)) == {"p0": "ok", "p1": "ok", "p2": "error"}


def test_resume_drops_the_candidates_of_errors(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        writer.add(problem_row("p0"), candidate_rows("p0"))
        writer.add(replace(failed_row("p1"), num_candidates=2), candidate_rows("p1"))
    open_writer(tmp_path, resume=True).close()
    problems, candidates = read_results(tmp_path)
    assert set(problems["problem_id"]) == set(candidates["problem_id"]) == {"p0"}


def test_resume_removes_orphans_and_half_written_files(tmp_path: Path) -> None:
    write(tmp_path, ["p0"])
    clean = tree(tmp_path)
    shard = (tmp_path / "candidates" / "part-000000.parquet").read_bytes()
    (tmp_path / "candidates" / "part-000001.parquet").write_bytes(shard)  # no problems shard commits it
    (tmp_path / "candidates" / "part-000002.parquet.tmp").write_bytes(shard[:100])
    (tmp_path / "problems" / "part-000001.parquet.tmp").write_bytes(b"")
    (tmp_path / "run.yaml.tmp").write_bytes(b"pol")
    assert len(read_results(tmp_path)[1]) == 2  # readers never see them
    open_writer(tmp_path, resume=True).close()
    assert tree(tmp_path) == clean


_DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_results import candidate_rows, failed_row, open_writer, problem_row
with open_writer(Path(sys.argv[1]), resume=True, flush_problems=1) as writer:
    done = {{key[0] for key in writer.done_keys()}}
    print("open", flush=True)
    for index in range(2000):
        name = f"p{{index:04d}}"
        if name not in done:
            if index % 3:
                writer.add(problem_row(name), candidate_rows(name))
            else:
                writer.add(failed_row(name), [])
"""


def test_sigkill_at_any_moment_loses_no_saved_row_and_makes_no_duplicate(tmp_path: Path) -> None:
    driver = [sys.executable, "-c", _DRIVER.format(tests=str(Path(__file__).parent)), str(tmp_path / "run")]
    shards, saved = tmp_path / "run" / "problems", set[str]()
    for num_shards in (1, 25, 60):
        with subprocess.Popen(driver, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"open\n"
            while len(list(shards.glob("*.parquet"))) < num_shards:  # pytest's timeout bounds this
                assert process.poll() is None
                time.sleep(0.003)
            process.send_signal(signal.SIGKILL)  # somewhere in the writing of the next shard
        assert process.returncode == -signal.SIGKILL
        problems, candidates = read_results(tmp_path / "run")
        assert_consistent(problems, candidates)
        now_saved = set(problems.loc[problems["status"] == "ok", "problem_id"])
        assert now_saved >= saved
        saved = now_saved
    assert saved
    with open_writer(tmp_path / "run", resume=True) as writer:  # the dead drivers' lock is free
        assert {key[0] for key in writer.done_keys()} == saved
    problems, candidates = read_results(tmp_path / "run")
    assert_consistent(problems, candidates)
    assert set(problems["problem_id"]) == saved


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs in the writer but what the test lets run."""


def test_a_kill_before_any_single_file_operation_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks through every replace and unlink of a resume that rewrites a shard, and stops before each in turn."""
    real = {name: getattr(os, name) for name in ("replace", "unlink")}
    for survive in range(40):
        folder = tmp_path / str(survive)
        with open_writer(folder, flush_problems=2) as writer:
            writer.add(problem_row("p0"), candidate_rows("p0"))
            writer.add(failed_row("p1"), candidate_rows("p1"))
            writer.add(failed_row("p2"), candidate_rows("p2"))
            writer.add(failed_row("p3"), [])
        left = survive

        def step(name: str, *args: Any) -> None:
            nonlocal left
            if left <= 0:  # dead: neither this nor any clean-up after it happens
                raise Killed
            left -= 1
            real[name](*args)

        finished = False
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, lambda *args, name=name: step(name, *args))
            try:
                writer = open_writer(folder, resume=True)
                writer.add(problem_row("p1"), candidate_rows("p1"))
                writer.close()
                finished = True
            except Killed:
                pass
        if finished:
            break
        assert_consistent(*read_results(folder))
        with open_writer(folder, resume=True) as writer:
            done = {key[0] for key in writer.done_keys()}
            assert "p0" in done
            for name in sorted({"p0", "p1", "p2", "p3"} - done):
                writer.add(problem_row(name), candidate_rows(name))
        problems, candidates = read_results(folder)
        assert_consistent(problems, candidates)
        assert sorted(problems["problem_id"]) == ["p0", "p1", "p2", "p3"]
        assert not list(folder.rglob("*.tmp"))
    else:
        pytest.fail("the run never got through")
    assert survive > 4


def test_two_writers_cannot_share_a_folder(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        with pytest.raises(UserError, match="another run is writing to"):
            open_writer(tmp_path, resume=True)
        writer.add(problem_row("p0"), candidate_rows("p0"))  # the first one is undisturbed
    open_writer(tmp_path, resume=True).close()


def test_the_loser_of_a_race_for_a_new_folder_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, winner = tmp_path / "run", list[ResultsWriter]()
    real_lock = folder_module.lock_folder

    def lose(path: Path) -> int:
        monkeypatch.setattr(folder_module, "lock_folder", real_lock)
        winner.append(open_writer(path))
        return real_lock(path)

    monkeypatch.setattr(folder_module, "lock_folder", lose)
    with pytest.raises(UserError, match="another run is writing to"):
        open_writer(folder)
    winner[0].add(problem_row("p0"), candidate_rows("p0"))
    winner[0].close()
    assert len(read_results(folder)[0]) == 1


def test_a_folder_of_another_run_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    write(tmp_path, ["p0"])
    before = tree(tmp_path)
    other = CONFIG.replace("tiny", "large").replace("n: 4", "n: 8, aggregation: min")
    with pytest.raises(UserError) as error:
        open_writer(tmp_path, other, resume=True)
    assert "belongs to another run" in str(error.value)
    assert "policy.model (there 'tiny', now 'large')" in str(error.value)
    assert "strategies[0].n (there 4, now 8)" in str(error.value)
    assert "strategies[0].aggregation (there 'unset', now 'min')" in str(error.value)
    assert tree(tmp_path) == before


def test_keys_that_change_no_row_may_differ_on_resume(tmp_path: Path) -> None:
    write(tmp_path, ["p0"])
    other = CONFIG.replace("address: null", "address: auto")
    with pytest.raises(UserError, match=r"ray\.address \(there None, now 'auto'\)"):
        open_writer(tmp_path, other, resume=True)
    with open_writer(tmp_path, other, resume=True, free_keys=("ray",)) as writer:
        assert len(writer.done_keys()) == 1


def test_results_are_replaced_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path, ["p0", "p1"])
    (tmp_path / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="already holds results; wanted --resume"):
        open_writer(tmp_path)
    assert tree(tmp_path) == before
    write(tmp_path, ["p9"], run_yaml="other: 1\n", overwrite=True)
    problems, candidates = read_results(tmp_path)
    assert_consistent(problems, candidates)
    assert problems["problem_id"].tolist() == ["p9"]
    assert (tmp_path / "run.yaml").read_text() == "other: 1\n"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        open_writer(tmp_path / "run", resume=True, overwrite=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_saved_nothing_is_no_obstacle(tmp_path: Path) -> None:
    open_writer(tmp_path).close()
    write(tmp_path, ["p0"], run_yaml="other: 1\n")
    assert (tmp_path / "run.yaml").read_text() == "other: 1\n"


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_with_foreign_files_is_refused_and_untouched(tmp_path: Path, options: dict[str, bool]) -> None:
    (tmp_path / "run.yaml").write_text("not: ours\n")
    (tmp_path / "thesis.tmp").write_text("years of work")
    with pytest.raises(UserError, match="holds other files and no results"):
        open_writer(tmp_path, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.yaml", "thesis.tmp"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, wanted a folder"):
        open_writer(tmp_path / "file")
    with pytest.raises(UserError, match="can't write to"):
        open_writer(tmp_path / "file" / "run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_a_read_only_place_is_refused_at_open() -> None:
    with pytest.raises(UserError, match="can't write to /proc/self/run"):
        open_writer(Path("/proc/self/run"))


def test_a_file_system_without_locks_is_refused_at_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"can't write to .*No locks available"):
        open_writer(tmp_path / "run")


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_noticed_at_open_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match="No space left on device"):
        open_writer(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("files_that_fit", [0, 1])
def test_a_full_disk_at_flush_leaves_no_half_shard_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, files_that_fit: int
) -> None:
    writer = open_writer(tmp_path, flush_problems=1000)
    writer.add(problem_row("p0"), candidate_rows("p0"))
    writer.flush()
    before = tree(tmp_path)
    writer.add(problem_row("p1"), candidate_rows("p1"))
    real, calls = getattr(os, function), 0
    fail_from = files_that_fit * (2 if function == "fsync" else 1)  # a file is synced, and then its folder

    def fill(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > fail_from:
            no_space()
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fill)
        with pytest.raises(UserError, match="No space left on device; 1 finished problems are not saved"):
            writer.flush()
    assert tree(tmp_path) == before
    writer.close()  # there is room again
    problems, candidates = read_results(tmp_path)
    assert_consistent(problems, candidates)
    assert problems["problem_id"].tolist() == ["p0", "p1"]


def test_the_lock_is_let_go_when_the_last_flush_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        writer = open_writer(tmp_path)
        writer.add(problem_row("p0"), candidate_rows("p0"))
        patch.setattr(os, "replace", no_space)
        with pytest.raises(UserError, match="No space left"):
            writer.close()
    write(tmp_path, ["p0"], resume=True)


def test_reading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a results folder"):
        read_results(tmp_path)
    write(tmp_path, ["p0"])
    shard = tmp_path / "problems" / "part-000000.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"can't read .*part-000000\.parquet"):
        read_results(tmp_path)
    pd.DataFrame({"problem_id": ["p0"]}).to_parquet(shard)
    with pytest.raises(UserError, match="written by another version of headrace"):
        read_results(tmp_path)


def test_a_path_that_looks_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "seed=5"
    write(folder, ["p0"])
    problems, _ = read_results(folder)
    assert problems["seed"].tolist() == [0]
    assert problems.columns.tolist() == PROBLEMS_SCHEMA.names


BEFORE = Path(__file__).parent / "written_before"  # by Headrace 0.1.0 as of November 2026; it stays as it is


def test_a_folder_that_was_written_before_is_read_and_resumed(tmp_path: Path) -> None:
    problems, candidates = read_results(BEFORE)
    assert problems["problem_id"].tolist() == ["p0", "p1"] and len(candidates) == len(candidate_rows("p0"))
    assert list(candidates["token_ids"][0]) == list(candidate_rows("p0")[0].token_ids)
    shutil.copytree(BEFORE, tmp_path / "run")
    with open_writer(tmp_path / "run", (BEFORE / "run.yaml").read_text(), resume=True) as writer:
        assert [key[0] for key in writer.done_keys()] == ["p0"]
        writer.add(problem_row("p1"), candidate_rows("p1"))
    assert_consistent(*read_results(tmp_path / "run"))


def test_columns_that_are_added_later_are_nullable() -> None:
    for kind, schema in (("problems", PROBLEMS_SCHEMA), ("candidates", CANDIDATES_SCHEMA)):
        [shard] = (BEFORE / kind).glob("*.parquet")
        known = set(pq.read_schema(shard).names)
        assert all(schema.field(name).nullable for name in set(schema.names) - known)
        assert known <= set(schema.names)
