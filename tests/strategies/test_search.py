"""What each strategy decides, on a scripted policy and a table verifier."""

import asyncio

import pytest

from orchestrator.core.account import Account
from orchestrator.core.errors import ProblemError
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import EndReason, Selection, Status
from strategies import STRATEGIES, strategy_class
from strategies.adaptive_best_of_n import AdaptiveBestOfN
from strategies.adaptive_consistency import AdaptiveConsistency
from strategies.beam_search import BeamSearch
from strategies.best_logprob import BestLogprob
from strategies.best_of_n import BestOfN
from strategies.budget_forcing import BudgetForcing
from strategies.deepconf import DeepConf
from strategies.dvts import DVTS
from strategies.early_stop import EarlyStop
from strategies.greedy import Greedy
from strategies.mcts import MCTS
from strategies.self_certainty import SelfCertainty
from strategies.self_consistency import SelfConsistency
from strategies.workload_budget import WorkloadBudget
from tests.fakes import ScriptedPolicy, TableVerifier, TextVerifier, open_session, problem
from tests.strategies.searching import belief, run

SAMPLES = {"Q:": ["Answer: 1", "Answer: 2", "Answer: 2", "Answer: 3"]}


async def test_greedy_takes_one_completion_at_temperature_zero():
    result, policy = await run(Greedy(), SAMPLES)
    assert result.answer == "1"
    assert [request.temperature for request in policy.requests] == [0.0]


@pytest.mark.parametrize("strategy", [Greedy(), BudgetForcing()], ids=["greedy", "budget_forcing"])
async def test_a_search_of_one_trajectory_has_no_candidate_where_the_cap_leaves_none(strategy):
    spent = Account(Budget(candidates=1))
    spent.spend(candidates=1)
    result, _ = await run(strategy, SAMPLES, run_account=spent)
    assert (result.candidates, result.chosen) == ((), None)


async def test_best_of_n_chooses_the_highest_score():
    result, _ = await run(BestOfN(n=4), SAMPLES, belief({"1": 0.2, "2": 0.5, "3": 0.9}))
    assert (result.answer, result.score, len(result.candidates)) == ("3", 0.9, 4)


ALL = [*(strategy_class(name)() for name in sorted(STRATEGIES)), SelfConsistency(weighted=True)]
ALL += [
    DeepConf(n=4, n_warmup=2, group_tokens=3, confidence="lowest_group", keep=1.0),
    AdaptiveConsistency(rule="cges"),
]
ALL += [SelfConsistency(weighted=True, weight="entropy"), SelfCertainty(borda_power=0.5)]


@pytest.mark.parametrize("strategy", [one for one in ALL if one.needs_verifier], ids=lambda one: type(one).__name__)
async def test_a_candidate_that_can_not_be_judged_is_never_the_verifiers_choice(strategy):
    verifier = TextVerifier(lambda text: None if "Answer: 9" in text else 0.1, scores_steps=True)
    policy = ScriptedPolicy({"Q:": ["Answer: 9", "Answer: 1", "Answer: 9"]})
    async with open_session(policy, verifier) as session:
        result = await strategy.search(problem(), session)
    assert (result.answer, result.score) == ("1", pytest.approx(0.1))
    assert {c.aggregate_score for c in result.candidates if c.trajectory.answer == "9"} == {None}


LONG = {"": ["a\n\nb\n\nAnswer: 1", "c\n\nAnswer: 2"]}


@pytest.mark.parametrize("strategy", ALL, ids=lambda one: type(one).__name__)
async def test_a_search_ends_with_its_time_and_has_what_it_has(strategy):
    policy = ScriptedPolicy(LONG)
    policy.gate = asyncio.Event()  # nothing is written any more
    async with open_session(policy, TableVerifier(lambda text: 0.5), budget=Budget(seconds=0.01)) as session:
        async with asyncio.timeout(10):
            result = await strategy.search(problem(), session)
        policy.gate.set()
    assert session.with_end_reason(result).end_reason is EndReason.DEADLINE
    assert {candidate.trajectory.status for candidate in result.candidates} <= {Status.TRUNCATED}


@pytest.mark.parametrize("budget", [1, 20, 100])
@pytest.mark.parametrize("strategy", ALL, ids=lambda one: type(one).__name__)
async def test_a_search_samples_no_token_more_than_its_budget(strategy, budget):
    async with open_session(ScriptedPolicy(LONG), TableVerifier(lambda text: 0.5), budget=budget) as session:
        result = await strategy.search(problem(), session)
    assert result.candidates
    assert session.ledger.generated_tokens <= budget


@pytest.mark.parametrize("strategy", ALL, ids=lambda one: type(one).__name__)
async def test_a_strategy_that_continues_a_text_or_stops_it_says_so(strategy):
    policy = ScriptedPolicy(LONG)
    async with open_session(policy, TableVerifier(lambda text: 0.5), max_tokens=40) as session:
        await strategy.search(problem(), session)
    wants_tokens = any(request.floor or len(request.prefix_ids) > request.num_prompt for request in policy.requests)
    assert strategy.needs_tokens or not wants_tokens


async def test_where_no_candidate_can_be_judged_the_search_fails_and_says_why():
    verifier = TextVerifier(lambda text: None, scores_steps=False)
    async with open_session(ScriptedPolicy(SAMPLES), verifier) as session:
        with pytest.raises(ProblemError, match="none of 2 candidates could be judged; the first: a riddle"):
            await BestOfN(n=2).search(problem(), session)


async def test_best_of_n_prefers_a_candidate_with_an_answer():
    result, _ = await run(BestOfN(n=2), {"Q:": ["no idea", "Answer: 2"]}, belief({"idea": 0.9, "2": 0.1}))
    assert result.answer == "2"


@pytest.mark.parametrize(("how", "answer"), [("last", "1"), ("min", "2"), ("prod", "2"), ("mean", "1")])
async def test_best_of_n_ranks_by_the_aggregation(how, answer):
    script = {"Q:": ["a\n\nAnswer: 1", "b\n\nAnswer: 2"]}
    judge = belief({"a\n\n": 0.3, "Answer: 1": 0.9, "b\n\n": 0.5, "Answer: 2": 0.6})
    result, _ = await run(BestOfN(n=2, aggregation=how), script, judge)
    assert result.answer == answer


async def test_self_consistency_takes_the_most_frequent_answer_without_a_verifier():
    result, _ = await run(SelfConsistency(n=4), SAMPLES)
    assert (result.answer, result.score) == ("2", None)


async def test_weighted_self_consistency_lets_belief_outweigh_numbers():
    result, _ = await run(SelfConsistency(n=4, weighted=True), SAMPLES, belief({"1": 0.1, "2": 0.2, "3": 0.9}))
    assert result.answer == "3"
    result, _ = await run(SelfConsistency(n=4, weighted=True), SAMPLES, belief({"1": 0.1, "2": 0.5, "3": 0.9}))
    assert result.answer == "2"


TREE = {
    "Q:": ["a\n\n-", "b\n\n-"],
    "a\n\n": ["Answer: 1", "Answer: 2"],
    "b\n\n": ["c\n\n-"],
    "c\n\n": ["Answer: 3", "Answer: 4"],
}


async def test_beam_search_follows_the_highest_scored_steps():
    judge = belief({"a\n\n": 0.1, "b\n\n": 0.9, "c\n\n": 0.8, "3": 0.7, "4": 0.95, "1": 0.2, "2": 0.2})
    result, policy = await run(BeamSearch(n=4, beam_width=1), TREE, judge)
    assert result.answer == "4"
    assert len(policy.requests) == 12  # three rounds of n


async def test_beam_search_keeps_beam_width_and_expands_each():
    judge = belief({"a\n\n": 0.8, "b\n\n": 0.9, "c\n\n": 0.8, "3": 0.7, "4": 0.95, "1": 0.99, "2": 0.2})
    result, policy = await run(BeamSearch(n=2, beam_width=2), TREE, judge)
    # round 1 keeps a and b; in round 2 a finishes with 0.99 and holds its place; b goes on with one child
    assert result.answer == "1"
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["1", "3"]
    assert len(policy.requests) == 2 + 2 + 1


async def test_beam_search_writes_to_the_end_after_max_steps():
    judge = belief({"a\n\n": 0.1, "b\n\n": 0.9, "c\n\n": 0.8, "-": 0.5})
    result, _ = await run(BeamSearch(n=2, beam_width=1, max_steps=1), TREE, judge)
    assert [c.trajectory.status for c in result.candidates] == [Status.FINISHED] * 2


async def test_beam_search_under_a_spent_budget_returns_what_it_has():
    judge = belief({"a\n\n": 0.9, "": 0.1})
    result, _ = await run(BeamSearch(n=4, beam_width=2), TREE, judge, budget=14)
    assert result.candidates
    assert all(candidate.trajectory.status is Status.TRUNCATED for candidate in result.candidates)


@pytest.mark.parametrize(("score", "samples"), [(0.95, 4), (0.8, 8), (0.5, 32), (0.05, 8)])
async def test_adaptive_best_of_n_spends_by_the_probe(score, samples):
    result, _ = await run(AdaptiveBestOfN(n=32, rule="thresholds"), {"Q:": ["Answer: 1"]}, lambda text: score)
    assert len(result.candidates) == samples
    assert result.detail["samples"] == samples


async def test_adaptive_best_of_n_stops_where_another_sample_is_not_worth_its_price():
    sure, _ = await run(AdaptiveBestOfN(n=64), {"Q:": ["Answer: 1"]}, lambda text: 0.97)
    torn, _ = await run(AdaptiveBestOfN(n=64), {"Q:": ["Answer: 1", "Answer: 2"]}, lambda text: 0.9)
    lost, _ = await run(AdaptiveBestOfN(n=64), {"Q:": ["Answer: 1"]}, lambda text: 0.01)
    assert len(sure.candidates) == 4 < len(torn.candidates) < len(lost.candidates) == 64
    assert torn.detail["gain"] <= 0.002 and torn.detail["samples"] == len(torn.candidates)


async def test_adaptive_best_of_n_goes_on_where_a_round_brought_a_better_answer():
    samples = {"Q:": ["Answer: 1", "Answer: 1", "Answer: 2", "Answer: 1"]}
    judge = belief({"1": 0.1, "2": 0.99})
    result, _ = await run(AdaptiveBestOfN(n=16, probe=2, round=1), samples, judge)
    assert (result.answer, len(result.candidates)) == ("2", 3)


async def test_adaptive_best_of_n_draws_the_samples_that_best_of_n_would():
    judge = belief({"1": 0.1, "2": 0.2, "3": 0.3})
    _, adaptive = await run(AdaptiveBestOfN(n=8, price=0), SAMPLES, judge)
    _, uniform = await run(BestOfN(n=8), SAMPLES, judge)
    assert [request.seed for request in adaptive.requests] == [request.seed for request in uniform.requests]


async def test_adaptive_best_of_n_ends_with_its_token_budget():
    result, _ = await run(AdaptiveBestOfN(n=64), {"Q:": ["Answer: 1"]}, lambda text: 0.01, budget=30)
    assert len(result.candidates) == 4


async def test_workload_budget_alone_spends_its_samples_per_problem():
    result, _ = await run(WorkloadBudget(n=8, samples_per_problem=5), {"Q:": ["Answer: 1"]}, lambda text: 0.9)
    assert len(result.candidates) == 5
    assert result.detail["samples"] == 5


async def test_workload_budget_asks_for_nothing_that_is_not_worth_its_price():
    strategy = WorkloadBudget(n=8, samples_per_problem=8, price=0.01)
    result, _ = await run(strategy, {"Q:": ["Answer: 1"]}, lambda text: 0.97)
    assert len(result.candidates) == 2


FORCED = {"Q:": ["abcd\n\nAnswer: 1"], "Wait": ["ef\n\nAnswer: 2"], "Answer:": [" 9"]}


async def test_budget_forcing_appends_wait_until_the_thinking_is_long_enough():
    result, _ = await run(BudgetForcing(min_thinking_tokens=10), FORCED)
    assert result.candidates[0].trajectory.text == "abcd\n\nWaitef\n\nAnswer: 9"
    assert result.detail["waits"] == 1


async def test_budget_forcing_waits_at_most_max_waits_times():
    result, _ = await run(BudgetForcing(min_thinking_tokens=500, max_waits=3), FORCED)
    assert result.detail["waits"] == 3
    assert result.answer == "9"


@pytest.mark.parametrize("max_tokens", [10, 13, 20, 21, 30, 40, 60])
async def test_budget_forcing_counts_what_it_takes_back_and_forces_against_max_tokens(max_tokens):
    async with open_session(ScriptedPolicy(FORCED), max_tokens=max_tokens) as session:
        result = await BudgetForcing(min_thinking_tokens=500, max_waits=3).search(problem(), session)
    [candidate] = result.candidates
    forced = candidate.trajectory.num_tokens - candidate.trajectory.generated_tokens
    assert candidate.trajectory.status is Status.TRUNCATED
    assert max_tokens - len("Answer:") < session.ledger.generated_tokens + forced <= max_tokens


async def test_budget_forcing_forces_the_answer_at_the_cap():
    result, _ = await run(BudgetForcing(max_thinking_tokens=3), FORCED)
    assert result.candidates[0].trajectory.text == "abcAnswer: 9"
    assert result.answer == "9"


async def test_budget_forcing_leaves_thinking_of_the_right_length_alone():
    result, _ = await run(BudgetForcing(min_thinking_tokens=2), FORCED)
    assert (result.candidates[0].trajectory.text, result.detail["waits"]) == ("abcd\n\nAnswer: 9", 0)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("best_of_n", {"n": -1}, "best_of_n: n must be >= 1, got -1"),
        ("self_consistency", {"n": 0}, "self_consistency: n must be >= 1, got 0"),
        ("beam_search", {"n": 4, "beam_width": 8}, "beam_width must be between 1 and n=4, got 8"),
        ("beam_search", {"n": 6, "beam_width": 4}, "multiple of beam_width=4, got 6"),
        ("adaptive_best_of_n", {"n": 2, "probe": 4}, "probe must be between 1 and n=2, got 4"),
        ("adaptive_best_of_n", {"round": 0}, "round must be >= 1, got 0"),
        ("adaptive_best_of_n", {"price": -1.0}, "price must be >= 0, got -1.0"),
        ("adaptive_best_of_n", {"easy": 0.5}, "hopeless <= medium <= easy"),
        ("workload_budget", {"samples_per_problem": 1.5}, "between probe=2 and n=16, got 1.5"),
        ("workload_budget", {"n": 2}, "between probe=2 and n=2, got 4"),
        ("workload_budget", {"probe": 0}, "probe must be >= 1, got 0"),
        ("budget_forcing", {"min_thinking_tokens": 9, "max_thinking_tokens": 3}, "got 9 and 3"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(name, fields, message):
    with pytest.raises(ValueError, match=message):
        STRATEGIES[name](**fields)


def test_an_unknown_strategy_lists_the_valid_names_and_the_nearest():
    with pytest.raises(ValueError, match=r"got 'best_of_m'.*greedy.*beam_search.*did you mean best_of_n"):
        strategy_class("best_of_m")


async def test_best_logprob_takes_the_largest_mean_per_token_and_warns():
    result, policy = await run(BestLogprob(n=3), {"Q:": ["Answer: 9 9 9 9", "Answer: 7", "Answer: zzzz"]})
    assert result.answer == "9 9 9 9"  # a token's log-probability here is minus its code point
    assert all(request.logprobs == 0 for request in policy.requests)
    assert "baseline only" in BestLogprob.warning


VOTES = {"Q:": ["Answer: 1", "Answer: 2", "Answer: 2", "Answer: 3"]}
SCORES = belief({"1": 0.6, "2": 0.4, "3": 0.7})


@pytest.mark.parametrize(
    ("selection", "answer"), [(Selection.SCORE, "3"), (Selection.WEIGHTED, "2"), (Selection.MAJORITY, "2")]
)
@pytest.mark.parametrize("strategy", [BestOfN(n=4), BeamSearch(n=4, beam_width=4), EarlyStop(n=4, z=10.0), DVTS(n=4)])
async def test_where_the_verifier_is_not_trusted_a_vote_chooses(strategy, selection, answer):
    result, _ = await run(strategy, VOTES, SCORES, selection=selection)
    assert (result.answer, result.selection) == (answer, selection)


async def test_a_vote_weighted_by_a_verifier_that_guesses_is_a_plain_one():
    judge = belief({"1": 0.9, "2": 0.1, "3": 0.2})
    trusted, _ = await run(SelfConsistency(n=4, weighted=True), VOTES, judge)
    overruled, _ = await run(SelfConsistency(n=4, weighted=True), VOTES, judge, selection=Selection.MAJORITY)
    assert (trusted.answer, overruled.answer) == ("1", "2")
    assert (trusted.selection, overruled.selection) == (Selection.WEIGHTED, Selection.MAJORITY)


@pytest.mark.parametrize(
    "strategy",
    [AdaptiveConsistency(n=6, window=3), AdaptiveBestOfN(n=6, probe=3), MCTS(simulations=8), WorkloadBudget(probe=2)],
    ids=lambda one: type(one).__name__,
)
async def test_a_search_that_would_go_on_and_has_no_budget_left_is_not_completed(strategy):
    policy = ScriptedPolicy({"": ["Answer: 1", "Answer: 2", "Answer: 3"]})
    async with open_session(policy, TableVerifier(lambda text: 0.5), budget=Budget(candidates=3)) as session:
        result = await strategy.search(problem(), session)
    assert len(result.candidates) <= 3
    assert session.with_end_reason(result).end_reason is EndReason.BUDGET
