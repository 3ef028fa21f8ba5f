"""What an observer is told of a search, and that telling it changes nothing."""

import json
from collections import defaultdict
from typing import Any

import pytest

from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Selection
from orchestrator.core.protocols import Strategy
from orchestrator.core.search_events import SearchEvent, as_json
from orchestrator.search import Outcome, solve
from strategies.adaptive_consistency import AdaptiveConsistency
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.budget_forcing import BudgetForcing
from strategies.dvts import DVTS
from strategies.early_stop import EarlyStop
from strategies.greedy import Greedy
from strategies.mcts import MCTS
from strategies.particle_filter import ParticleFilter
from strategies.rebase import Rebase
from strategies.self_consistency import SelfConsistency
from tests.fakes import CoinPolicy, ScriptedPolicy, TableVerifier, open_session, problem

LETTERS = [
    Greedy(),
    BestOfN(n=4),
    SelfConsistency(n=4),
    AdaptiveConsistency(n=4, window=2),
    EarlyStop(n=4),
    BeamSearch(n=4, beam_width=2),
    BeamSearch(n=4, beam_width=2, lookahead=1),
    DVTS(n=4, beam_width=2),
    MCTS(simulations=6, expansion=2),
    ParticleFilter(n=4),
    Rebase(n=4),
    BudgetForcing(end_marker="b"),
]


def judge(text: str) -> float:
    return (1 + text.count("a")) / 5


async def searched(
    strategy: Strategy, policy: ScriptedPolicy, *, listen: bool = True, **options: Any
) -> tuple[Outcome, list[SearchEvent]]:
    told: list[SearchEvent] = []
    session = open_session(policy, TableVerifier(judge), observer=told.append if listen else None, **options)
    return await solve(problem(), strategy.search, session, timeout_s=10), told


def of_type(told: list[SearchEvent], kind: str) -> list[dict[str, Any]]:
    return [event for event in json.loads(json.dumps([as_json(event) for event in told])) if event["type"] == kind]


@pytest.mark.parametrize("strategy", LETTERS, ids=lambda strategy: type(strategy).__name__)
async def test_of_every_strategy_the_steps_and_verdicts_are_those_of_its_candidates(strategy: Strategy) -> None:
    outcome, told = await searched(strategy, CoinPolicy())
    assert outcome.result is not None
    steps: dict[tuple[int, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for event in of_type(told, "step"):
        steps[tuple(event["path"])][event["index"]] = event
    scores = {(tuple(event["path"]), event["index"]): event["score"] for event in of_type(told, "score")}
    begun = {tuple(path) for event in of_type(told, "fork") for path in event["children"]}
    for candidate in outcome.result.candidates:
        trajectory = candidate.trajectory
        assert trajectory.path in begun
        told_last: dict[int, dict[str, Any]] = {}
        for depth in range(len(trajectory.path) + 1):
            told_last |= steps[trajectory.path[:depth]]
        for index, step in enumerate(trajectory.steps):
            assert (told_last[index]["text"], told_last[index]["tokens"]) == (step.text, len(step.token_ids))
        assert told_last[len(trajectory.steps) - 1]["finished"]
        if steps[trajectory.path]:
            last = max(steps[trajectory.path])
            score = trajectory.steps[last].score
            assert scores.get((trajectory.path, last)) == (None if score is None else score.mean)
    [answer] = of_type(told, "answer")
    chosen = outcome.result.candidates[outcome.result.chosen or 0].trajectory
    assert (tuple(answer["path"]), answer["end_reason"]) == (chosen.path, "completed")
    assert of_type(told, "budget")[-1]["policy_tokens"] == outcome.result.ledger.generated_tokens
    assert [event.at for event in told] == sorted(event.at for event in told)


@pytest.mark.parametrize("strategy", LETTERS, ids=lambda strategy: type(strategy).__name__)
async def test_a_search_finds_the_same_whether_somebody_listens_or_not(strategy: Strategy) -> None:
    heard, _ = await searched(strategy, CoinPolicy())
    unheard, nothing = await searched(strategy, CoinPolicy(), listen=False)
    assert heard.result is not None and unheard.result is not None and not nothing
    assert [one.trajectory.text for one in heard.result.candidates] == [
        one.trajectory.text for one in unheard.result.candidates
    ]


async def test_what_a_beam_gives_up_is_pruned_and_what_it_goes_on_from_is_not() -> None:
    script = {"Q:": ["a\n\n-", "b\n\n-"], "a\n\n": ["Answer: 1"]}
    _, told = await searched(BeamSearch(n=2, beam_width=1), ScriptedPolicy(script))
    assert [event["path"] for event in of_type(told, "prune")] == [[1]]
    forks = [(event["path"], event["children"]) for event in of_type(told, "fork")]
    assert forks == [([], [[0], [1]]), ([0], [[0, 0], [0, 1]])]
    parents = {tuple(event["path"]): event["parent"] for event in of_type(told, "step")}
    assert parents == {(0,): [], (1,): [], (0, 0): [0], (0, 1): [0]}


async def test_a_vote_is_told_with_its_weights() -> None:
    policy = ScriptedPolicy({"Q:": ["a\n\nAnswer: 1", "aa\n\nAnswer: 2", "b\n\nAnswer: 1"]})
    outcome, told = await searched(BestOfN(n=3), policy, selection=Selection.WEIGHTED)
    assert outcome.result is not None
    counted, weighted = of_type(told, "vote")
    assert counted["answers"] == [
        {"answer": "1", "weight": 2.0, "count": 2},
        {"answer": "2", "weight": 1.0, "count": 1},
    ]
    assert weighted["answers"] == [
        {"answer": "1", "weight": pytest.approx(0.6), "count": 2},
        {"answer": "2", "weight": pytest.approx(0.6), "count": 1},
    ]


async def test_a_step_that_is_taken_back_is_told_again_in_its_place() -> None:
    policy = ScriptedPolicy({"Q:": ["a</t>b"], "aWait": ["c</t>d"], "</t>": ["Answer: 1"]})
    strategy = BudgetForcing(end_marker="</t>", min_thinking_tokens=3, max_waits=1)
    _, told = await searched(strategy, policy)
    steps = [(event["path"], event["index"], event["text"]) for event in of_type(told, "step")]
    assert steps[:3] == [([0], 0, "a"), ([0], 1, "</t>"), ([0], 1, "Wait")]


async def test_a_budget_that_cuts_a_search_ends_its_steps() -> None:
    _, told = await searched(Greedy(), ScriptedPolicy({"Q:": ["a\n\nbcdef"]}), budget=Budget(policy_tokens=5))
    steps = of_type(told, "step")
    assert [(event["text"], event["finished"]) for event in steps] == [("a\n\n", False), ("bc", True)]
    assert of_type(told, "answer")[0]["end_reason"] == "budget"
