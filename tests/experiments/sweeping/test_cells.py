"""A sweep's YAML to cells, without a model: names, bad input, and which samples are shared."""

import pytest

from experiments.sweeping.cells import read_sweep
from experiments.sweeping.sharing import shared_samples
from orchestrator.core.errors import UserError

BASE = """
name: s
data: {name: tinymath, num_problems: 4}
policy: {model: nowhere/small}
verifier: {name: streaming_prm, model: nowhere/prm}
strategies: [{name: best_of_n, n: 4}]
"""


def sweep(tmp_path, axes, *overrides, base=BASE):
    path = tmp_path / "sweep.yaml"
    path.write_text(base + axes)
    return read_sweep(path, overrides)


def names(found):
    return [cell.name for cell in found.cells]


def test_the_last_axis_changes_fastest_and_a_name_is_what_an_override_would_say(tmp_path):
    found = sweep(tmp_path, "sweep: {policy.model: [a/small, a/large], sampling.temperature: [0.6, 1.0]}")
    assert names(found) == [
        "policy.model=small,sampling.temperature=0.6",
        "policy.model=small,sampling.temperature=1.0",
        "policy.model=large,sampling.temperature=0.6",
        "policy.model=large,sampling.temperature=1.0",
    ]
    assert [cell.config.policy.model for cell in found.cells[1:3]] == ["a/small", "a/large"]
    assert [cell.config.sampling.temperature for cell in found.cells[1:3]] == [1.0, 0.6]
    assert found.cells[0].folder == found.folder / found.cells[0].name


def test_a_cell_is_an_ordinary_run_without_the_sweep_in_it(tmp_path):
    [first, _] = sweep(tmp_path, "sweep: {seeds: [[0], [1, 2]]}").cells
    assert "sweep" not in first.resolved_yaml and first.config.seeds == [0]
    assert first.resolved_yaml.startswith("name: seeds=0\n")


def test_a_mapping_replaces_what_the_file_says_and_a_dotted_key_changes_a_part_of_it(tmp_path):
    axes = "sweep: {data: [{name: tinymath, split: dev}, {name: word_problems}], data.num_problems: [2, 3]}"
    data = [cell.config.data for cell in sweep(tmp_path, axes).cells]
    assert [(one.name, one.num_problems) for one in data] == [
        ("tinymath", 2), ("tinymath", 3), ("word_problems", 2), ("word_problems", 3),
    ]  # fmt: skip


def test_named_values_and_groups_name_the_cells(tmp_path):
    axes = """
sweep:
  budget: {few: {policy_tokens: 100}, many: {policy_tokens: 1000}}
  pair:
    judged: {policy.model: a, verifier.model: b}
    alone: {policy.model: c, verifier: null, strategies: [{name: greedy}]}
"""
    found = sweep(tmp_path, axes)
    assert names(found)[:2] == ["budget=few,pair=judged", "budget=few,pair=alone"]
    judged, alone = found.cells[2:]
    assert judged.config.verifier.model == "b" and judged.config.budget.policy_tokens == 1000
    assert alone.config.verifier is None and alone.config.policy.model == "c"


def test_values_are_called_by_their_names(tmp_path):
    axes = "sweep: {verifier: [null, {name: regex, options: {pattern: a}}], strategies: [[{name: greedy}]]}"
    assert names(sweep(tmp_path, axes)) == ["verifier=none,strategies=greedy", "verifier=regex,strategies=greedy"]


def test_an_axis_can_be_set_and_added_on_the_command_line(tmp_path):
    found = sweep(tmp_path, "sweep: {seeds: [[0], [1]]}", "sweep.seeds=[[7]]", "sweep.sampling.top_p=[0.5, 0.9]")
    assert names(found) == ["seeds=7,sampling.top_p=0.5", "seeds=7,sampling.top_p=0.9"]
    assert names(sweep(tmp_path, "", "sweep.sampling.top_p=[0.5]")) == ["sampling.top_p=0.5"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("", "has no sweep; wanted axes under sweep, or headrace run"),
        ("sweep: {}", r"sweep: wanted axes, such as .*, got \{\}"),
        ("sweep: [1]", "sweep: wanted axes"),
        ("sweep: {sampling.temperature: 0.5}", "wanted a list of values, or names with a value each, got 0.5"),
        ("sweep: {sampling.temperature: []}", "sweep.sampling.temperature: wanted at least one value, got none"),
        ("sweep: {sampling: {temperature: [0.5]}}", r"as sampling.temperature: \[...\]"),
        ("sweep: {sampling.temprature: [0.5]}", "cell sampling.temprature=0.5: .*temprature"),
        ("sweep: {sampling.temperature: [hot]}", "cell sampling.temperature=hot: sampling.temperature.*hot"),
        ("sweep: {smpling.temperature: [0.5]}", "did you mean sampling.temperature"),
        ("sweep: {pair: [a, b]}", "a group wants names with settings each"),
        ("sweep: {pair: {a: 1}}", "sweep.pair.a: wanted settings, as policy.model: ..., got 1"),
        ("sweep: {pair: {a: {polcy.model: x}}}", "sweep.pair.a: got polcy.model, .*did you mean policy"),
        ("sweep: {name: [a]}", "name is the same for all cells"),
        ("sweep: {ray.address: [auto]}", "ray is the same for all cells"),
        ("sweep: {policy.model: [a/x, b/x]}", "two values would be called x; wanted names"),
        ("sweep: {budget: [{policy_tokens: 1, seconds: 2}]}", "has no name of its own"),
        ("sweep: {verifier: {a b: null}}", "wanted letters, digits and . _ [+] -, got 'a b'"),
        ("sweep: {data.num_problems: [2], data: [{name: tinymath}]}", "overrides data.num_problems"),
        ("sweep: {pair: {a: {sampling.top_p: 1}}, sampling.top_p: [0.5]}", "overrides sampling.top_p of sweep.pair"),
        ("sweep: {sampling.top_p: {a: 1, b: 1.0}}", "the cells sampling.top_p=a and sampling.top_p=b are the same run"),
        ("sweep: {strategies: [[{name: best}]]}", "cell strategies=best: strategy: got 'best', wanted one of"),
        ("sweep: {verifier: [null]}", "cell verifier=none: verifier: best_of_n scores candidates"),
        ("sweep: {verifier.name: [streming_prm]}", "did you mean streaming_prm"),
        ("sweep: {seeds: [[0, 0]]}", "two seeds.* are the same"),
        (f"sweep: {{pair: {{{'x' * 230}: {{speculation: 1}}}}}}", "wanted at most 200"),
    ],
)  # fmt: skip
def test_bad_axes_are_refused_by_name(tmp_path, axes, message):
    with pytest.raises(UserError, match=message):
        sweep(tmp_path, axes)


def test_an_override_of_what_the_sweep_varies_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"wanted sweep.seeds=\[...\]"):
        sweep(tmp_path, "sweep: {seeds: [[0], [1]]}", "seeds=[3]")


def shared(tmp_path, axes, *overrides):
    found = shared_samples(sweep(tmp_path, axes, *overrides).cells)
    return {search.source: source.source for search, source in found.items()}


def test_the_largest_n_answers_every_smaller_one_and_the_vote(tmp_path):
    strategies = "[{name: best_of_n, n: [2, 8, 4]}, {name: self_consistency, n: [8, 16]}, {name: greedy}]"
    assert shared(tmp_path, f"sweep: {{strategies: {{a: {strategies}}}}}") == {
        "strategies=a: best_of_n n=2": "strategies=a: best_of_n n=8",
        "strategies=a: best_of_n n=4": "strategies=a: best_of_n n=8",
        "strategies=a: self_consistency n=8": "strategies=a: self_consistency n=16",
    }


def test_a_vote_is_shared_between_verifiers_and_what_they_scored_is_not(tmp_path):
    axes = """
sweep:
  verifier.model: [x, y]
  strategies: {a: [{name: best_of_n, n: 8}, {name: self_consistency, n: 4}]}
"""
    assert shared(tmp_path, axes) == {
        "verifier.model=x,strategies=a: self_consistency n=4": "verifier.model=x,strategies=a: best_of_n n=8",
        "verifier.model=y,strategies=a: self_consistency n=4": "verifier.model=y,strategies=a: best_of_n n=8",
    }
    vote = "sweep: {verifier.model: [x, y], strategies: {a: [{name: self_consistency, n: 4}]}}"
    assert shared(tmp_path, vote) == {
        "verifier.model=y,strategies=a: self_consistency n=4": "verifier.model=x,strategies=a: self_consistency n=4",
    }


def test_cells_of_other_strategies_share_and_cells_of_other_samples_do_not(tmp_path):
    axes = """
sweep:
  sampling.temperature: [0.5, 1]
  strategies: {few: [{name: best_of_n, n: 2}], many: [{name: best_of_n, n: 8}]}
"""
    assert shared(tmp_path, axes) == {
        f"sampling.temperature={t},strategies=few: best_of_n n=2":
        f"sampling.temperature={t},strategies=many: best_of_n n=8"
        for t in ("0.5", "1")
    }  # fmt: skip


@pytest.mark.parametrize(
    "override",
    ["budget.policy_tokens=100", "run_budget.seconds=9", "trust={data: {name: tinymath, split: dev}}",
     "policy={engine: openai, model: m, urls: ['http://h/v1']}"],
)  # fmt: skip
def test_nothing_is_shared_where_more_samples_change_what_each_is(tmp_path, override):
    strategies = "sweep: {strategies: {a: [{name: self_consistency, n: [2, 8]}]}}"
    assert shared(tmp_path, strategies)
    assert not shared(tmp_path, strategies, override)


def test_the_votes_by_confidence_ask_more_of_a_sample_than_others_recorded(tmp_path):
    axes = """
sweep:
  strategies:
    a: [{name: self_consistency, n: 8}, {name: self_consistency, n: [4, 2], weighted: true, weight: entropy}]
"""
    assert list(shared(tmp_path, axes).values()) == ["strategies=a: self_consistency n=4 weighted=True weight=entropy"]


def test_another_cells_seeds_are_other_samples(tmp_path):
    axes = "sweep: {seeds: [[0], [1]], strategies: {few: [{name: best_of_n, n: 2}], many: [{name: best_of_n, n: 4}]}}"
    found = shared(tmp_path, axes)
    assert found["seeds=1,strategies=few: best_of_n n=2"] == "seeds=1,strategies=many: best_of_n n=4"
