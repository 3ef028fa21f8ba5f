"""What holds for every strategy that searches step by step."""

import pytest

from strategies import STRATEGIES
from strategies.beam_search import BeamSearch
from strategies.dvts import DVTS
from strategies.early_stop import EarlyStop
from strategies.mcts import MCTS
from strategies.particle_filter import ParticleFilter
from strategies.rebase import Rebase
from tests.fakes import ScriptedPolicy, TableVerifier, open_session, problem
from tests.strategies.searching import Watched, run

SEARCHES = [
    BeamSearch(n=8, beam_width=2),
    BeamSearch(n=8, beam_width=2, max_steps=2),
    BeamSearch(n=8, beam_width=2, lookahead=2, deduplicate=True),
    DVTS(n=8, beam_width=2),
    DVTS(n=8, beam_width=2, max_steps=2),
    ParticleFilter(n=8),
    ParticleFilter(n=8, max_steps=2),
    ParticleFilter(n=8, ess_threshold=0.5, weight_temperature=0.2),
    MCTS(simulations=12, expansion=3),
    MCTS(simulations=12, expansion=3, max_steps=2),
    MCTS(simulations=2, expansion=3),
    Rebase(n=8),
    Rebase(n=8, max_steps=2, balance_temperature=1.0),
    EarlyStop(n=8),
    EarlyStop(n=8, min_value=0.5),
]
SCRIPT = {
    "Q:": ["good\n\n-", "bad\n\n-", "Answer: 9", "middling\n\n-"],
    "\n\n": ["good\n\n-", "Answer: 1", "bad\n\n-", "middling\n\n-", "Answer: 2"],
}


def judge(text: str) -> float:
    """Fewer bad steps, more belief; each text has its own score."""
    steps = text.split("\n\n")
    worth = {"good": 0.95, "middling": 0.8, "Answer: 1": 0.9, "Answer: 2": 0.7, "Answer: 9": 0.3}
    score = 1.0
    for step in steps:
        score *= worth.get(step.removeprefix("Q:"), 0.99 if not step else 0.4)
    return score


async def watched(strategy, **options):
    policy, verifier = ScriptedPolicy(SCRIPT), TableVerifier(judge)
    async with open_session(policy, verifier, **options) as session:
        watch = Watched(session)
        result = await strategy.search(problem(), watch)
    return result, watch, session, verifier


def test_every_strategy_that_asks_a_verifier_at_each_step_says_so():
    stepwise = {name for name, cls in STRATEGIES.items() if getattr(cls, "needs_step_scores", False)}
    assert stepwise == {"beam_search", "dvts", "particle_filter", "mcts", "early_stop", "rebase"}
    assert all(STRATEGIES[name].needs_verifier for name in stepwise)


@pytest.mark.parametrize("strategy", SEARCHES, ids=repr)
async def test_what_is_given_up_is_released_and_what_is_released_is_not_continued(strategy):
    result, watch, _, _ = await watched(strategy)
    assert result.answer is not None
    assert watch.running <= watch.released


@pytest.mark.parametrize("strategy", SEARCHES, ids=repr)
async def test_a_search_gives_the_same_result_again(strategy):
    (first, _, _, _), (again, _, _, _) = await watched(strategy), await watched(strategy)
    assert [c.trajectory.text for c in first.candidates] == [c.trajectory.text for c in again.candidates]
    assert (first.chosen, first.detail) == (again.chosen, again.detail)


@pytest.mark.parametrize("strategy", SEARCHES, ids=repr)
async def test_candidates_are_done_and_scored_and_the_best_answer_is_chosen(strategy):
    result, _, _, _ = await watched(strategy)
    assert all(candidate.trajectory.status.done for candidate in result.candidates)
    assert len({candidate.trajectory.path for candidate in result.candidates}) == len(result.candidates)
    answered = [c.aggregate_score for c in result.candidates if c.trajectory.answer is not None]
    assert None not in answered
    assert result.score == max(answered)


@pytest.mark.parametrize("budget", [1, 3, 9, 30, 70, 200])
@pytest.mark.parametrize("strategy", SEARCHES, ids=repr)
async def test_a_search_ends_cleanly_when_its_budget_is_used_up(strategy, budget):
    result, watch, session, verifier = await watched(strategy, budget=budget)
    assert result.candidates
    assert session.ledger.generated_tokens <= budget
    assert watch.running <= watch.released
    assert not verifier.states
    for candidate in result.candidates:
        assert (candidate.aggregate_score is None) == (not candidate.trajectory.steps)


@pytest.mark.parametrize("strategy", SEARCHES, ids=repr)
async def test_a_search_ends_when_every_child_is_cut_by_max_tokens(strategy):
    result, _, _, _ = await watched(strategy, max_tokens=3)
    assert {candidate.trajectory.num_tokens for candidate in result.candidates} == {3}


@pytest.mark.parametrize("strategy", SEARCHES, ids=repr)
async def test_a_failing_verifier_fails_the_search_with_its_own_error(strategy):
    def broken(text: str) -> float:
        raise LookupError("no such text")

    with pytest.raises(LookupError, match="no such text"):
        await run(strategy, SCRIPT, broken)
