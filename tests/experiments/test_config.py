import pytest

from experiments.config import RunConfig, load_yaml, make_strategies
from experiments.data.sets.aime import Aime
from experiments.data.sets.gpqa_diamond import GpqaDiamond
from orchestrator.core.errors import UserError
from orchestrator.runner import strategy_label
from strategies.aggregation import Aggregation
from strategies.best_of_n import BestOfN
from strategies.selection import RankBy, Ranking

GOOD = """
name: x
data: {name: tinymath}
policy: {model: some/folder}
strategies: [{name: greedy}]
"""


def load(tmp_path, text, *overrides):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_yaml(path, RunConfig, overrides)


def test_a_minimal_file_gets_the_defaults(tmp_path):
    config, resolved = load(tmp_path, GOOD)
    assert (config.policy.replicas, config.verifier, config.sampling.temperature) == (1, None, 0.8)
    assert "temperature: 0.8" in resolved


def test_each_data_set_has_its_own_settings_and_the_resolved_file_holds_their_defaults(tmp_path):
    text = GOOD.replace("{name: tinymath}", "{name: gpqa_diamond, path: '${name}.csv'}")
    config, resolved = load(tmp_path, text + "trust: {data: {name: aime, years: [2024]}}")
    assert config.data == GpqaDiamond(name="gpqa_diamond", path="x.csv")
    assert config.trust.data == Aime(name="aime", years=[2024])
    assert "choice_seed: 0" in resolved and "problem_field" not in resolved


def test_overrides_win_over_the_file(tmp_path):
    config, resolved = load(tmp_path, GOOD, "policy.replicas=3", "name=y")
    assert (config.policy.replicas, config.name) == (3, "y")
    assert "replicas: 3" in resolved


def test_overrides_reach_into_lists(tmp_path):
    config, _ = load(tmp_path, GOOD, "strategies.0.name=best_of_n", "strategies.0.n=4", "seeds=[1,2]")
    assert config.strategies == [{"name": "best_of_n", "n": 4}]
    assert config.seeds == [1, 2]


@pytest.mark.parametrize("override", ["strategies.9.n=4", "name.x=1", "seeds=[1", "=3"])
def test_an_override_that_does_not_fit_is_the_users_error(tmp_path, override):
    with pytest.raises(UserError, match="override"):
        load(tmp_path, GOOD, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("model: some/folder", "model: m, replicaz: 2"), r"replicaz.*Did you mean one of: 'replicas'"),
        (GOOD.replace("strategies:", "strategy:"), r"strategy.*Did you mean: 'strategies'"),
        (GOOD.replace("policy: {model: some/folder}\n", ""), "policy is missing"),
        (GOOD.replace("{model: some/folder}", "{}"), r"policy\.model is missing"),
        (GOOD.replace("model: some/folder", "model: m, replicas: two"), r"policy\.replicas: Value 'two'"),
        (GOOD.replace("model: some/folder", "model: m, replicas: -1"), "policy: replicas must be >= 1, got -1"),
        (GOOD + "sampling: {temperature: -1}", "temperature must be >= 0, got -1"),
        (GOOD + "sampling: {max_tokens: 0}", "max_tokens must be >= 1, got 0"),
        (GOOD + "budget: {policy_tokens: 0}", "policy_tokens must be >= 1"),
        (GOOD + "steps: {delimiters: []}", "delimiters must be non-empty"),
        (GOOD.replace("name: x", "name: a/b"), "name: wanted a plain folder name"),
        (GOOD.replace("{name: tinymath}", "{name: gsm8k, splt: train}"), "data: gsm8k has no setting 'splt', it has"),
        (GOOD.replace("{name: tinymath}", "{path: a}"), r"data\.name is missing"),
        (GOOD.replace("{name: tinymath}", "gsm8k"), "data: wanted a mapping, got 'gsm8k'"),
        (GOOD + "trust: {data: {name: gsm}}", r"trust\.data\.name: got 'gsm', wanted .*did you mean gsm8k"),
        (GOOD + "seeds: []", "seeds: wanted at least one"),
        (GOOD + "seeds: [1, -1]", "seeds: must be >= 0, got -1"),
        (GOOD.replace("[{name: greedy}]", "[]"), "strategies: wanted at least one"),
        ("- 1\n- 2", "must be a YAML mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_one_message_that_names_the_key(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)


def test_a_missing_or_unreadable_file_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_yaml(tmp_path / "none.yaml", RunConfig)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        load_yaml(tmp_path / "latin.yaml", RunConfig)
    with pytest.raises(UserError, match="can't read"):
        load_yaml(tmp_path, RunConfig)
    with pytest.raises(UserError, match="key=value"):
        load(tmp_path, GOOD, "resume")


def test_a_strategy_entry_becomes_the_typed_strategy():
    [named] = make_strategies([{"name": "best_of_n", "n": 4, "aggregation": "min"}])
    assert named.strategy == BestOfN(n=4, aggregation=Aggregation.min)


def test_the_ranking_of_candidates_is_a_mapping_and_can_be_swept():
    entry = {"name": "best_of_n", "selection": [{"kind": "lower_bound", "z": 2}, {"kind": "mean"}]}
    lower, mean = make_strategies([entry])
    assert lower.strategy == BestOfN(selection=RankBy(kind=Ranking.lower_bound, z=2.0))
    assert mean.strategy == BestOfN()
    assert strategy_label("best_of_n", lower.strategy) == "best_of_n n=16 selection=lower_bound(z=2)"


def test_a_list_of_values_sweeps():
    swept = make_strategies([{"name": "best_of_n", "n": [1, 2], "aggregation": ["last", "min"]}, {"name": "greedy"}])
    assert [(s.strategy.n, str(s.strategy.aggregation)) for s in swept[:-1]] == [
        (1, "last"),
        (1, "min"),
        (2, "last"),
        (2, "min"),
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"n": 4}, r"strategies\[0\]: name is missing"),
        ({"name": "best_off_n"}, "did you mean best_of_n"),
        ({"name": "best_of_n", "selection": "lower_bound"}, "best_of_n: selection: wanted a mapping"),
        ({"name": "best_of_n", "selection": {"kind": "lower"}}, "best_of_n: selection.kind: .*lower"),
        ({"name": "best_of_n", "selection": {"zz": 1}}, "best_of_n: selection.zz"),
        ({"name": "best_of_n", "selection": {"z": -1}}, "selection: z must be >= 0 and finite, got -1"),
        ({"name": "best_of_n", "num": 4}, r"best_of_n: num: .*parameters: n, aggregation"),
        ({"name": "best_of_n", "n": "four"}, "best_of_n: n: Value 'four'"),
        ({"name": "best_of_n", "n": -2}, "best_of_n: n must be >= 1, got -2"),
        ({"name": "best_of_n", "aggregation": "median"}, r"expected one of \[last, min, prod, mean\]"),
        ({"name": "beam_search", "n": 4, "beam_width": 8}, "beam_width must be between 1 and n=4, got 8"),
        ({"name": "beam_search", "beam_with": 8}, "Did you mean: 'beam_width'"),
    ],
)
def test_a_bad_strategy_entry_names_the_parameter(entry, message):
    with pytest.raises(UserError, match=message):
        make_strategies([entry])
