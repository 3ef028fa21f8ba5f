"""Facts about sessions whose policy thinks."""

import pytest

from orchestrator.core.ledger import Budget
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


# max_thinking_tokens

LONG = "<think>aaaa\n\nbbbb\n\ncccc</think>Answer: 1"


@pytest.mark.parametrize("cap", [8, 13, 15])
async def test_a_cap_ends_the_thinking_and_the_answer_follows(cap: int) -> None:
    policy = ThinkingPolicy({"Q:": [LONG], "</think>": ["Answer: 3"]})
    async with open_session(policy, max_thinking_tokens=cap) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert (child.answer, child.status, child.thinking_tokens) == ("3", Status.FINISHED, cap)
    assert child.thoughts == LONG[:cap] + "</think>" and child.reply == "Answer: 3"
    first, second = policy.requests
    assert (first.max_thinking, second.max_thinking) == (cap, None)
    assert second.max_tokens == first.max_tokens - cap - len("</think>") and second.seed != first.seed
    assert session.ledger.generated_tokens == cap + len("Answer: 3") + 1


async def test_thinking_that_ends_by_itself_is_left_alone() -> None:
    policy = ThinkingPolicy({"Q:": [ENDS]})
    async with open_session(policy, max_thinking_tokens=len(THOUGHTS)) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert (child.text, len(policy.requests)) == (ENDS, 1)


async def test_the_cap_holds_step_by_step_too() -> None:
    policy = ThinkingPolicy({"Q:": [LONG], "aaaa\n\n": ["bbbb\n\ncccc"], "</think>": ["Answer: 3"]})
    async with open_session(policy, max_thinking_tokens=16) as session:
        [child] = await session.expand([await session.start(problem())], scored=False)
        assert (child.text, child.status) == ("<think>aaaa\n\n", Status.RUNNING)
        [child] = await session.expand([child], scored=False)
        assert (child.text, child.status) == ("<think>aaaa\n\nbbb</think>", Status.RUNNING)
        [child] = await session.expand([child], scored=False)
    assert (child.reply, child.answer, child.status) == ("Answer: 3", "3", Status.FINISHED)


async def test_the_marker_counts_in_max_tokens_and_where_it_has_no_room_the_answer_is_cut_off() -> None:
    for max_tokens in (len(LONG[:9]), len(LONG[:9] + "</think>")):
        policy = ThinkingPolicy({"Q:": [LONG], "</think>": ["Answer: 3"]})
        async with open_session(policy, max_thinking_tokens=9, max_tokens=max_tokens) as session:
            [child] = await session.rollout([await session.start(problem())], scored=False)
        assert child.status is Status.TRUNCATED and child.answer is None
        assert child.num_tokens <= max_tokens and session.ledger.candidates == 1


async def test_a_budget_pays_for_thinking_and_answer_together() -> None:
    policy = ThinkingPolicy({"Q:": [LONG], "</think>": ["Answer: 3"]})
    async with open_session(policy, max_thinking_tokens=10, budget=14) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert session.ledger.generated_tokens <= 14 and child.status is Status.TRUNCATED


async def test_tokens_past_the_end_of_the_thinking_are_counted_and_take_none_of_the_answers() -> None:
    policy = ThinkingPolicy({"Q:": [LONG], "</think>": ["Answer: 3" + "3" * 50]})
    policy.overshoot = 7
    async with open_session(policy, max_thinking_tokens=10, max_tokens=40) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert (child.status, child.num_tokens) == (Status.TRUNCATED, 40)
    assert session.ledger.discarded_tokens == 7
    assert session.ledger.generated_tokens == child.generated_tokens + 7
    assert session.ledger.candidates == 1 and not session.cut_short


async def test_a_budget_pays_for_tokens_past_the_end_of_the_thinking() -> None:
    policy = ThinkingPolicy({"Q:": [LONG], "</think>": ["Answer: 3" + "3" * 50]})
    policy.overshoot = 7
    async with open_session(policy, max_thinking_tokens=10, budget=30) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert child.status is Status.TRUNCATED and session.cut_short
    assert 25 < session.ledger.generated_tokens <= 30 and session.ledger.candidates == 1


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("budget", range(20, 260, 8))
async def test_a_budget_of_flops_pays_for_what_is_read_again_after_the_thinking(budget: int, n: int) -> None:
    policy = ThinkingPolicy({"Q:": [LONG], "</think>": ["Answer: 3" + "3" * 50]})
    policy.overshoot = 3
    async with open_session(policy, max_thinking_tokens=10, budget=Budget(flops=float(budget))) as session:
        await session.rollout([await session.start(problem())], n, scored=False)
    assert session.ledger.policy_flops <= budget
    assert session.ledger.generated_tokens > 0 or budget < 2 * 2 * n * len("Q:</think>") + 20


@pytest.mark.parametrize("budget", range(20, 120, 9))
async def test_a_budget_of_verifier_tokens_pays_for_the_marker(budget: int) -> None:
    policy = ThinkingPolicy({"Q:": [LONG], "</think>": ["Answer: 3" + "3" * 50]})
    verifier = TableVerifier(lambda text: 0.5)
    limits = Budget(verifier_tokens=budget)
    async with open_session(policy, verifier, max_thinking_tokens=10, budget=limits) as session:
        await session.rollout([await session.start(problem())], max_tokens=30)
    assert 0 < session.ledger.verifier_tokens <= budget
