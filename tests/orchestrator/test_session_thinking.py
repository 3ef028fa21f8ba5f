"""Facts about sessions whose policy thinks."""

import pytest

from orchestrator.core.nouns import Status
from strategies.best_of_n import BestOfN
from strategies.budget_forcing import BudgetForcing
from strategies.self_consistency import SelfConsistency
from tests.fakes import TableVerifier, TextVerifier, ThinkingPolicy, open_session, problem

ENDS = "<think>Answer: 9\n\nno</think>\n\nSo\n\nAnswer: 1"
CUT = "<think>Answer: 9\n\nstill"
NEVER = "Answer: 2"
THOUGHTS = "<think>Answer: 9\n\nno</think>\n\n"


async def test_answers_are_what_comes_after_the_thinking() -> None:
    policy = ThinkingPolicy({"Q:": [ENDS, CUT, NEVER]})
    async with open_session(policy) as session:
        children = await session.rollout([await session.start(problem())], 3, scored=False)
        assert [child.answer for child in children] == ["1", None, "2"]
        assert [child.reply for child in children] == ["So\n\nAnswer: 1", "", "Answer: 2"]
        assert [child.thoughts for child in children] == [THOUGHTS, CUT, ""]
        assert [child.text for child in children] == [ENDS, CUT, NEVER]


async def test_thinking_tokens_are_on_the_ledger_of_each_candidate_and_of_the_search() -> None:
    async with open_session(ThinkingPolicy({"Q:": [ENDS, NEVER]})) as session:
        result = await SelfConsistency(n=2).search(problem(), session)
    tokens = [candidate.trajectory.cost.thinking_tokens for candidate in result.candidates]
    assert sorted(tokens) == [0, len(THOUGHTS)]
    assert sorted(c.trajectory.thinking_tokens for c in result.candidates) == [0, len(THOUGHTS)]
    assert session.ledger.thinking_tokens == len(THOUGHTS)
    assert session.ledger.generated_tokens == len(ENDS) + len(NEVER) + 2  # the ends of sequence


async def test_a_verifier_of_text_is_shown_the_reply_and_asked_about_its_steps() -> None:
    verifier = TextVerifier(lambda text: len(text) / 100, scores_steps=True)
    async with open_session(ThinkingPolicy({"Q:": [ENDS]}), verifier) as session:
        [child] = await session.rollout([await session.start(problem())])
    assert [step.score is not None for step in child.steps] == [False, False, True, True]
    assert {step for solution in verifier.asked for step in solution.steps} == {"So\n\n", "Answer: 1"}
    assert sorted(index for solution in verifier.asked for index in solution.asked) == [0, 1]
    assert child.scored


async def test_a_candidate_whose_thinking_was_cut_off_has_no_score_and_ranks_last() -> None:
    verifier = TextVerifier(lambda text: 0.1, scores_steps=True)
    async with open_session(ThinkingPolicy({"Q:": [CUT, NEVER]}), verifier) as session:
        result = await BestOfN(n=2).search(problem(), session)
    assert result.answer == "2"
    scores = {candidate.trajectory.text: candidate.aggregate_score for candidate in result.candidates}
    assert scores[CUT] is None and scores[NEVER] == pytest.approx(0.1)


async def test_a_verifier_of_tokens_reads_the_thinking_too() -> None:
    async with open_session(ThinkingPolicy({"Q:": [ENDS]}), TableVerifier(lambda text: 0.5)) as session:
        [child] = await session.rollout([await session.start(problem())])
    assert len(child.step_scores) == len(child.steps) == 4


async def test_what_is_injected_into_the_thinking_is_thinking_until_its_marker() -> None:
    async with open_session(ThinkingPolicy({"Q:": ["<think>a\n\nb"], "</think>": ["Answer: 3"]})) as session:
        [child] = await session.expand([await session.start(problem())], scored=False)
        [child] = await session.inject([child], "Wait")
        [child] = await session.inject([child], "</think>")
        [child] = await session.rollout([child], scored=False)
        assert [step.thinking for step in child.steps] == [True, True, True, False]
        assert (child.reply, child.answer, child.status) == ("Answer: 3", "3", Status.FINISHED)
        assert child.thinking_tokens == len("<think>a\n\n")


async def test_budget_forcing_ends_the_thinking_with_the_policys_own_marker() -> None:
    policy = ThinkingPolicy({"Q:": ["<think>a\n\nbbbbbbbbbbbbbb"], "</think>": ["Answer: 3"]})
    async with open_session(policy) as session:
        result = await BudgetForcing(max_thinking_tokens=12).search(problem(), session)
    assert {request.stop for request in policy.requests} == {("</think>",), ()}
    assert result.answer == "3"
    [candidate] = result.candidates
    assert candidate.trajectory.thoughts.endswith("</think>")
