"""Strategies by model name and parameters: what is made, and what is refused with which words."""

import pytest

from orchestrator.core.errors import UserError
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.errors import ApiError
from strategies import STRATEGIES, BeamSearch, BestOfN, BudgetForcing, Greedy, SelfConsistency
from strategies.aggregation import Aggregation
from strategies.selection import RankBy, Ranking


def catalog(**changes: object) -> Catalog:
    options: dict[str, object] = {
        "alias": "tiny",
        "default_strategy": "best_of_n",
        "strategies": STRATEGIES,
        "params": {"best_of_n": {"n": 8}},
        "has_verifier": True,
        "max_n": 32,
    }
    return Catalog(**{**options, **changes})  # type: ignore[arg-type]


def refusal(model: str, extra: dict[str, object], **changes: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        catalog(**changes).resolve(model, extra)
    return caught.value


def test_every_strategy_is_a_model() -> None:
    assert catalog().models == ["tiny", *(f"tiny@{name}" for name in STRATEGIES)]


@pytest.mark.parametrize(
    ("model", "extra", "strategy"),
    [
        ("tiny", {}, BestOfN(n=8)),
        ("tiny", {"n": 4, "aggregation": "min"}, BestOfN(n=4, aggregation=Aggregation.min)),
        ("tiny", {"strategy": "greedy"}, Greedy()),
        ("tiny@greedy", {"strategy": "greedy"}, Greedy()),
        ("tiny@beam_search", {"n": 8, "beam_width": 2}, BeamSearch(n=8, beam_width=2)),
        ("tiny@self_consistency", {"weighted": True}, SelfConsistency(weighted=True)),
        (
            "tiny",
            {"selection": {"kind": "lower_bound", "z": 2.0}},
            BestOfN(n=8, selection=RankBy(kind=Ranking.lower_bound, z=2.0)),
        ),
    ],
)
def test_a_request_gets_the_strategy_that_it_names(model: str, extra: dict[str, object], strategy: object) -> None:
    named = catalog().resolve(model, extra)
    assert named.strategy == strategy
    assert STRATEGIES[named.name] is type(strategy)


def test_where_the_policy_returns_text_only_what_goes_on_from_tokens_is_not_served() -> None:
    served = catalog(tells_tokens=False)
    assert "tiny@beam_search" not in served.models and "tiny@deepconf" in served.models
    online = {"n_warmup": 4, "confidence": "lowest_group"}
    assert "needs a policy that tells token ids" in refusal("tiny@deepconf", online, tells_tokens=False).message
    assert catalog().resolve("tiny@deepconf", online).name == "deepconf"
    with pytest.raises(UserError, match=r"default_strategy: got 'mcts'.*\(mcts needs a policy that tells token ids"):
        catalog(tells_tokens=False, default_strategy="mcts")


def test_params_are_json() -> None:
    assert catalog().resolve("tiny", {}).params == {
        "n": 8,
        "aggregation": "last",
        "selection": {"kind": "mean", "z": 1.0},
    }


def test_nothing_in_a_parameter_is_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TEST_SECRET", "leaked")
    named = catalog().resolve("tiny@budget_forcing", {"wait": "${oc.env:HEADRACE_TEST_SECRET}"})
    assert named.strategy == BudgetForcing(wait="${oc.env:HEADRACE_TEST_SECRET}")


@pytest.mark.parametrize("model", ["tinny@best_of_n", "tiny@best-of-n", "tiny@", "tiny@@greedy", "", "greedy"])
def test_an_unknown_model_is_404_and_lists_the_valid_ones(model: str) -> None:
    error = refusal(model, {})
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "tiny@best_of_n" in error.message


def test_the_nearest_model_is_named() -> None:
    assert refusal("tiny@best-of-n", {}).message.endswith("did you mean tiny@best_of_n?")


@pytest.mark.parametrize(
    ("extra", "param", "words"),
    [
        ({"strategy": "beem_search"}, "headrace.strategy", "did you mean beam_search?"),
        ({"strategy": ["greedy"]}, "headrace.strategy", "wanted one of greedy"),
        ({"strategy": "beam_search", "beam_with": 4}, "headrace.beam_with", "did you mean beam_width?"),
        ({"strategy": "greedy", "n": 4}, "headrace.n", "its own are none"),
        ({"n": "16"}, "headrace.n", "valid integer"),
        ({"n": True}, "headrace.n", "valid integer"),
        ({"n": None}, "headrace.n", "valid integer"),
        ({"n": 1.5}, "headrace.n", "valid integer"),
        ({"n": 0}, "headrace.n", "n must be >= 1, got 0"),
        ({"n": -1}, "headrace.n", "n must be >= 1, got -1"),
        ({"n": 33}, "headrace.n", "must be <= limits.max_n=32, got 33"),
        ({"n": 10**30}, "headrace.n", "must be <= limits.max_n=32"),
        ({"aggregation": "max"}, "headrace.aggregation", "'last', 'min', 'prod' or 'mean'"),
        ({"strategy": "beam_search", "n": 4, "beam_width": 8}, "headrace.beam_width", "between 1 and n=4, got 8"),
        ({"selection": "lower_bound"}, "headrace.selection", "should be an object"),
        ({"selection": {"kind": "lower"}}, "headrace.selection", "'mean' or 'lower_bound'"),
        ({"selection": {"zz": 1}}, "headrace.selection", "unexpected"),
        ({"selection": {"z": -1.0}}, "headrace.selection", "z must be >= 0 and finite, got -1.0"),
        ({"strategy": "adaptive_best_of_n", "easy": float("inf")}, "headrace", "thresholds"),
    ],
)
def test_a_bad_parameter_is_400_and_named(extra: dict[str, object], param: str, words: str) -> None:
    error = refusal("tiny", extra)
    assert (error.status, error.type, error.param) == (400, "invalid_request_error", param)
    assert words in error.message


def test_two_strategies_in_one_request_are_refused() -> None:
    assert refusal("tiny@greedy", {"strategy": "best_of_n"}).param == "headrace.strategy"


def test_without_a_verifier_only_what_needs_none_is_served() -> None:
    alone = {"has_verifier": False, "default_strategy": "self_consistency"}
    assert catalog(**alone).models == [
        "tiny",
        "tiny@greedy",
        "tiny@best_logprob",
        "tiny@self_certainty",
        "tiny@self_consistency",
        "tiny@adaptive_consistency",
        "tiny@deepconf",
        "tiny@genselect",
        "tiny@tournament",
        "tiny@self_refine",
        "tiny@budget_forcing",
        "tiny@token_budget_prompt",
    ]
    assert refusal("tiny@best_of_n", {}, **alone).status == 404
    assert "needs a verifier" in refusal("tiny", {"weighted": True}, **alone).message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"default_strategy": "best_of"}, "default_strategy: got 'best_of'"),
        ({"has_verifier": False}, "best_of_n needs a verifier"),
        ({"scores_steps": False, "default_strategy": "dvts"}, "dvts needs a verifier that scores steps"),
        ({"params": {"beam": {}}}, "strategies: got 'beam'"),
        ({"params": {"best_of_n": {"N": 4}}}, "strategies.best_of_n.N"),
        ({"params": {"best_of_n": {"n": "4"}}}, "strategies.best_of_n.n"),
        ({"max_n": 8}, "strategies.best_logprob.n: must be <= limits.max_n=8, got 16"),
    ],
)
def test_a_configuration_that_can_serve_nothing_is_the_users_mistake(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        catalog(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "field"), [("mcts", "simulations"), ("mcts", "expansion"), ("beam_search", "lookahead")]
)
def test_whatever_multiplies_a_searchs_cost_is_capped(name: str, field: str) -> None:
    with pytest.raises(ApiError, match=rf"headrace\.{field}: must be <= limits\.max_n=32, got 33"):
        catalog().resolve(f"tiny@{name}", {field: 33})
