import asyncio

import pytest

from orchestrator.core.errors import PromptTooLong, UserError
from orchestrator.core.nouns import Status
from tests.fakes import ScriptedPolicy, TableVerifier, ids, open_session, problem

TWO_STEPS = {"Q:": ["a\n\nAnswer: 1", "b\n\nAnswer: 2"]}


def by_length(text: str) -> float:
    return len(text) / 100


async def test_children_come_in_prefix_major_order_and_share_the_prefix():
    async with open_session(ScriptedPolicy({"Q:": ["a\n\nx", "b\n\ny"], "a\n\n": ["c"], "b\n\n": ["d"]})) as session:
        root = await session.start(problem())
        first = await session.expand([root], 2, scored=False)
        assert [t.text for t in first] == ["a\n\n", "b\n\n"]
        second = await session.rollout(first, 2, scored=False)
        assert [t.text for t in second] == ["a\n\nc", "a\n\nc", "b\n\nd", "b\n\nd"]
        assert second[0].steps[0] is first[0].steps[0]
        assert [t.path for t in second] == [(0, 0), (0, 1), (1, 0), (1, 1)]


async def test_each_child_of_a_prefix_draws_its_own_seed_also_over_several_calls():
    policy = ScriptedPolicy(TWO_STEPS)
    async with open_session(policy) as session:
        root = await session.start(problem())
        await session.rollout([root], 2, scored=False)
        await session.rollout([root], 2, scored=False)
    assert len({request.seed for request in policy.requests}) == 4


async def test_scores_belong_to_their_steps_and_only_new_tokens_are_read():
    verifier = TableVerifier(by_length)
    async with open_session(ScriptedPolicy(TWO_STEPS), verifier) as session:
        root = await session.start(problem())
        children = await session.rollout([root], 2)
        for child in children:
            assert child.step_scores == (by_length("Q:" + child.steps[0].text), by_length("Q:" + child.text))
        # the prompt once for both children, every completion token (with its end of sequence) once
        assert session.ledger.verifier_tokens == len("Q:") + sum(child.num_tokens for child in children)


async def test_scoring_overlaps_generation():
    policy, verifier = ScriptedPolicy({"Q:": ["a\n\nb\n\nc"]}), TableVerifier(by_length)
    verifier.gate = asyncio.Event()
    async with open_session(policy, verifier) as session:
        root = await session.start(problem())
        rollout = asyncio.create_task(session.rollout([root]))
        await verifier.started.wait()
        await policy.ended.wait()  # while the verifier still reads the first step
        assert not rollout.done()
        verifier.gate.set()
        [child] = await rollout
    assert len(child.step_scores) == 3


async def test_leaving_the_session_frees_every_state():
    verifier = TableVerifier(by_length)
    async with open_session(ScriptedPolicy({"Q:": ["a\n\nb\n\nc"], "a\n\n": ["b\n\nc"]}), verifier) as session:
        root = await session.start(problem())
        children = await session.expand([root], 3)
        await session.expand(children[:1], 2)
        assert verifier.states
    assert not verifier.states


async def test_a_cancelled_search_aborts_its_sequences_and_frees_its_states():
    policy, verifier = ScriptedPolicy({"Q:": ["a\n\n" * 200]}), TableVerifier(by_length)
    verifier.gate = asyncio.Event()

    async def search() -> None:
        async with open_session(policy, verifier) as session:
            await session.rollout([await session.start(problem())], 2)

    task = asyncio.create_task(search())
    await verifier.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert policy.aborted == 2
    assert not verifier.states


async def test_max_tokens_is_never_exceeded_and_truncates():
    async with open_session(ScriptedPolicy({"Q:": ["abcdefgh"]}), max_tokens=5) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert (child.status, child.num_tokens, child.answer) == (Status.TRUNCATED, 5, None)


async def test_a_call_cap_below_the_hard_cap_leaves_the_child_running():
    async with open_session(ScriptedPolicy({"Q:": ["abcdefgh"], "abc": ["defgh"]})) as session:
        [child] = await session.rollout([await session.start(problem())], max_tokens=3, scored=False)
        assert (child.status, child.text) == (Status.RUNNING, "abc")
        [child] = await session.rollout([child], scored=False)
    assert (child.status, child.text) == (Status.FINISHED, "abcdefgh")


@pytest.mark.parametrize("budget", [1, 7, 10, 16, 1000])
async def test_the_token_budget_is_never_exceeded_by_one_token(budget):
    async with open_session(ScriptedPolicy({"Q:": ["abcdefgh"]}), budget=budget) as session:
        root = await session.start(problem())
        first = await session.rollout([root], 3, scored=False)
        second = await session.rollout([root], 3, scored=False)
        assert session.ledger.generated_tokens == min(budget, 6 * 9) == sum(t.num_tokens for t in first + second)
        assert session.remaining_tokens == budget - session.ledger.generated_tokens


async def test_a_prompt_longer_than_the_context_is_an_error_with_both_lengths():
    async with open_session(ScriptedPolicy({}, context_length=4)) as session:
        with pytest.raises(PromptTooLong, match=r"6 tokens.*4 tokens"):
            await session.start(problem("prompt"))


async def test_the_context_caps_a_trajectory_too():
    async with open_session(ScriptedPolicy({"Q:": ["abcdefgh"]}, context_length=6)) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert (child.status, child.num_tokens) == (Status.TRUNCATED, 4)


async def test_a_stop_string_is_the_last_step_and_can_be_taken_back():
    async with open_session(ScriptedPolicy({"Q:": ["a\n\nAnswer: 1"], "Wait": ["!"]})) as session:
        [child] = await session.rollout([await session.start(problem())], stop=("Answer:",), scored=False)
        assert [step.text for step in child.steps] == ["a\n\n", "Answer:"]
        [child] = session.retract([child])
        [child] = await session.inject([child], "Wait")
        [child] = await session.rollout([child], scored=False)
        assert child.text == "a\n\nWait!"
        assert session.ledger.discarded_tokens == len("Answer:")
        assert child.generated_tokens == child.num_tokens - len("Wait")


async def test_scores_follow_an_injection():
    verifier = TableVerifier(by_length)
    async with open_session(ScriptedPolicy({"Q:": ["a\n\nb"], "Wait": ["c"]}), verifier) as session:
        [child] = await session.expand([await session.start(problem())])
        [child] = await session.inject([child], "Wait")
        [child] = await session.rollout([child])
    assert [step.score is None for step in child.steps] == [False, True, False]
    assert child.step_scores[-1] == by_length("Q:a\n\nWaitc")


async def test_scoring_later_gives_the_scores_of_scoring_at_once():
    verifier = TableVerifier(by_length)
    async with open_session(ScriptedPolicy(TWO_STEPS), verifier) as session:
        children = await session.rollout([await session.start(problem())], 2, scored=False)
        later = await session.score(children)
        assert [t.step_scores for t in later] == [
            tuple(by_length(s) for s in ("Q:a\n\n", "Q:a\n\nAnswer: 1")),
            tuple(by_length(s) for s in ("Q:b\n\n", "Q:b\n\nAnswer: 2")),
        ]


async def test_scoring_without_a_verifier_is_the_users_error():
    async with open_session(ScriptedPolicy(TWO_STEPS)) as session:
        with pytest.raises(UserError, match="no verifier"):
            await session.rollout([await session.start(problem())])


async def test_a_verifier_fault_ends_the_call_with_that_error_and_aborts_generation():
    def broken(text: str) -> float:
        raise RuntimeError("the verifier broke")

    policy = ScriptedPolicy({"Q:": ["a\n\n" * 50]})
    async with open_session(policy, TableVerifier(broken)) as session:
        with pytest.raises(RuntimeError, match="the verifier broke"):
            await session.rollout([await session.start(problem())], 2)
    assert policy.aborted == 2


async def test_flops_follow_the_tokens_that_the_engine_computed():
    async with open_session(ScriptedPolicy({"Q:": ["abc"]})) as session:
        await session.rollout([await session.start(problem())], scored=False)
        # shape: 1 weight per token; 2 prompt tokens + 4 sampled ones, of which the last is not read again
        assert session.ledger.policy_flops == 2 * (len(ids("Q:")) + 4 - 1)
