"""What a dry run says: numbers where rows tell, bounds where settings do, and words for the rest."""

import json
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest

from experiments.sweeping.cells import read_sweep
from experiments.sweeping.dry_run import notes, outlooks, table
from experiments.sweeping.estimate import busy_seconds, estimate, measured
from experiments.sweeping.sharing import key_of
from orchestrator.core.errors import UserError
from orchestrator.results import ResultsWriter
from tests.experiments.synthetic import problem_row, write_run

SWEEP = """
name: s
data: {{name: tinymath, num_problems: 10}}
policy: {{model: {model}}}
verifier: {{name: streaming_prm, model: nowhere/prm}}
sampling: {{max_tokens: 100}}
strategies: {strategies}
results_dir: {results}
sweep: {sweep}
"""


def sweep(tmp_path, strategies, *overrides, axes="{seeds: [[0], [1, 2]]}", model="./nowhere"):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(strategies=strategies, results=tmp_path / "results", sweep=axes, model=model))
    return read_sweep(path, overrides)


def earlier(tmp_path, name="earlier", model="./nowhere"):
    """A run of best_of_n n=8 (400 tokens, 880 MFLOPs a search), greedy and beam_search in 10 busy seconds."""
    write_run(tmp_path / name)
    (tmp_path / name / "run.yaml").write_text(json.dumps({"policy": {"model": model, "replicas": 2}}))
    return tmp_path / name


def one(found):
    return [(round(o.estimate.tokens), round(o.estimate.flops), o.estimate.at_most) for o in found]


def test_an_earlier_run_gives_tokens_flops_and_hours_in_proportion_to_n_and_replicas(tmp_path):
    like = earlier(tmp_path)
    found = outlooks(sweep(tmp_path, "[{name: best_of_n, n: 16}]"), [like])
    assert one(found) == [(10 * 800, 10 * 2 * 880e6, False), (20 * 800, 20 * 2 * 880e6, False)]
    rows_tokens = 12 * (400 + 50 + 200)
    assert found[0].estimate.hours * 3600 == pytest.approx(8000 / (rows_tokens / 10 / 2))
    four = outlooks(sweep(tmp_path, "[{name: best_of_n, n: 16}]", "policy.replicas=4"), [like])
    assert four[0].estimate.hours == pytest.approx(found[0].estimate.hours / 4)
    assert any("rows of earlier" in note for note in notes(found))


def test_what_the_samples_of_the_sweep_answer_costs_nothing(tmp_path):
    [first, _] = outlooks(sweep(tmp_path, "[{name: best_of_n, n: [8, 4]}]"), [earlier(tmp_path)])
    assert (first.own, first.replayed, first.estimate.tokens) == (10, 10, 10 * 400)


def test_another_models_rows_tell_nothing_and_a_bound_is_called_one(tmp_path):
    found = outlooks(sweep(tmp_path, "[{name: best_of_n, n: 4}]"), [earlier(tmp_path, model="./another")])
    assert found[0].estimate.tokens == 10 * 4 * 100 and found[0].estimate.at_most
    assert found[0].estimate.flops is None and found[0].estimate.hours is None
    text = table(sweep(tmp_path, "[{name: best_of_n, n: 4}]"), found).markdown()
    assert "| 0 | 10 | 0 | 0 | <= 4 k | ? | ? |" in text
    assert any(note.startswith("to know more: --probe") for note in notes(found))


def test_a_search_without_rows_or_bound_is_named_as_not_known(tmp_path):
    found = outlooks(sweep(tmp_path, "[{name: greedy}, {name: mcts, simulations: 4}]"))
    assert found[0].estimate.tokens == 10 * 100 and found[0].estimate.unknown == ("mcts",)
    assert "not in the numbers: what mcts costs; no rows tell" in notes(found)
    capped = outlooks(sweep(tmp_path, "[{name: mcts}]", "budget.policy_tokens=70"))
    assert capped[0].estimate.tokens == 10 * 70 and capped[0].estimate.at_most
    run = outlooks(sweep(tmp_path, "[{name: mcts}]", "run_budget.policy_tokens=500"))
    assert run[0].estimate.tokens == 500 and run[0].estimate.at_most


def test_what_is_not_on_this_machine_is_said_and_refuses_nothing(tmp_path):
    axes = (
        "{data: [{name: jsonl, path: nowhere.jsonl, num_problems: 7}, {name: math500}, {name: aime, num_problems: 30}]}"
    )
    found = outlooks(sweep(tmp_path, "[{name: greedy}]", axes=axes))
    assert [o.own for o in found] == [7, None, 30]
    said = "\n".join(notes(found))
    assert "not here (3 cells): policy: no folder" in said and "nowhere.jsonl" in said
    assert "how many problems math500 has is known when it is downloaded" in said


def test_rows_that_are_there_are_counted_as_done_unless_they_will_be_replaced(tmp_path):
    wanted = sweep(tmp_path, "[{name: greedy}, {name: beam_search, n: 4}]", axes="{seeds: [[0], [1]]}")
    cell = wanted.cells[0]
    beam = key_of(cell.parts.strategies[1])[1]
    rows = {"strategy": "beam_search", "params": beam}
    with ResultsWriter.open(cell.folder, run_yaml=cell.resolved_yaml, versions={}) as results:
        for index in range(3):
            row = replace(problem_row(f"p{index}", "beam_search", 4, 0, correct=True), **rows)
            results.add(row, [])
    found = outlooks(wanted)
    assert (found[0].done, found[0].own, found[1].own) == (3, 17, 20)
    assert found[1].estimate.tokens == 10 * 200 + 10 * 100, "the first cell's rows tell of the second's beam search"
    assert outlooks(wanted, fresh=True)[0].own == 20


def test_a_folder_without_rows_is_no_earlier_run(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        outlooks(sweep(tmp_path, "[{name: greedy}]"), [tmp_path / "nowhere"])
    ResultsWriter.open(tmp_path / "empty", run_yaml="name: empty\n", versions={}).close()
    with pytest.raises(UserError, match="holds no rows that sampled"):
        outlooks(sweep(tmp_path, "[{name: greedy}]"), [tmp_path / "empty"])


def test_the_most_alike_rows_are_taken(tmp_path):
    cell = sweep(tmp_path, "[{name: greedy}]").cells[0]
    [named] = cell.parts.strategies
    rows = pd.DataFrame(
        [{"strategy": "greedy", "params": key_of(named)[1], "generated_tokens": 5, "policy_flops": 1.0,
          "verifier_flops": 0.0, "n": None, "started_at": pd.Timestamp(0), "finished_at": pd.Timestamp(10**9)}]
    )  # fmt: skip
    far = measured(
        "far", {"policy": {"model": "./nowhere"}, "sampling": {"max_tokens": 7}}, rows.assign(generated_tokens=9)
    )
    near = measured("near", {"policy": {"model": "./nowhere"}, "steps": {"every_tokens": None, "delimiters": ["\n\n"],
                             "thinking_delimiters": None}}, rows)  # fmt: skip
    assert estimate(cell, {key_of(named): 2}, [far, near]).sources == ("near",)


def test_breaks_between_searches_do_not_count_as_time():
    begin = pd.Timestamp("2026-01-01")
    spans = [(0, 10), (2, 5), (8, 12), (100, 103)]
    rows = pd.DataFrame(
        [{"started_at": begin + timedelta(seconds=a), "finished_at": begin + timedelta(seconds=b)} for a, b in spans]
    )
    assert busy_seconds(rows) == 15
