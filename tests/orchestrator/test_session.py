import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from orchestrator.core.account import Account
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.confidence import ConfidenceFloor
from orchestrator.core.errors import PromptTooLong, UserError
from orchestrator.core.ledger import Budget, Ledger
from orchestrator.core.nouns import EndReason, SearchResult, Status
from orchestrator.core.protocols import Finish, Sampling, Segment
from orchestrator.session import SearchSession
from strategies.adaptive_consistency import AdaptiveConsistency
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.deepconf import DeepConf
from strategies.genselect import GenSelect
from strategies.rebase import Rebase
from strategies.self_refine import SelfRefine
from strategies.tournament import Tournament
from tests.fakes import (
    CoinPolicy,
    ScriptedPolicy,
    TableVerifier,
    TextVerifier,
    confidence_of,
    ids,
    open_session,
    problem,
    text_of,
)

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


async def test_confidence_is_kept_per_step_and_shared_by_forks():
    async with open_session(ScriptedPolicy({**TWO_STEPS, "b\n\n": ["c"]})) as session:
        [plain] = await session.rollout([await session.start(problem())], scored=False)
        floor = ConfidenceFloor(group_tokens=2, least=30.0)  # `An` is above, `ns` is below
        [low] = await session.rollout([await session.start(problem())], scored=False, logprobs=3, floor=floor)
        [child] = await session.rollout([replace(low, steps=low.steps[:1])], scored=False, logprobs=3)
    assert {step.confidence for step in plain.steps} == {None}
    assert [step.confidence.tokens for step in low.steps] == [
        tuple(confidence_of(token).confidence for token in step.token_ids) for step in low.steps
    ]
    assert (low.text, low.status) == ("b\n\nAns", Status.RUNNING)
    assert child.steps[0].confidence is low.steps[0].confidence


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


async def test_a_verifier_that_reads_text_gets_the_steps_and_which_of_them_to_score():
    verifier = TextVerifier(by_length, scores_steps=True)
    async with open_session(ScriptedPolicy(TWO_STEPS), verifier) as session:
        children = await session.rollout([await session.start(problem())], 2)
        assert [child.step_scores for child in children] == [
            tuple(by_length("".join(step.text for step in child.steps[:end])) for end in (1, 2)) for child in children
        ]
        assert session.ledger.verifier_tokens == 7 * len(verifier.asked)  # no reading of the prompt alone
    whole = [solution for solution in verifier.asked if len(solution.steps) == 2]
    assert {(solution.steps, solution.ended) for solution in whole} == {
        (("a\n\n", "Answer: 1"), True),
        (("b\n\n", "Answer: 2"), True),
    }
    assert sorted(index for solution in verifier.asked for index in solution.asked) == [0, 0, 1, 1]


async def test_a_verifier_of_whole_solutions_is_asked_once_for_each_that_ended():
    verifier = TextVerifier(by_length, scores_steps=False)
    async with open_session(ScriptedPolicy(TWO_STEPS), verifier) as session:
        root = await session.start(problem())
        children = await session.rollout([root], 2)
        assert [child.step_scores for child in children] == [(by_length(child.text),) for child in children]
        [step] = await session.expand([root])
        assert (step.status, step.step_scores) == (Status.RUNNING, ())
    assert [(solution.asked, solution.ended) for solution in verifier.asked] == [((1,), True)] * 2


async def test_what_can_not_be_judged_is_paid_for_and_not_asked_about_again():
    verifier = TextVerifier(lambda text: None if "?" in text else 0.5, scores_steps=True)
    policy = ScriptedPolicy({"Q:": ["a\n\n", "b?\n\n"], "a\n\n": ["c"], "b?\n\n": ["d"]})
    async with open_session(policy, verifier) as session:
        first = await session.expand([await session.start(problem())], 2)
        assert [child.unjudged for child in first] == [None, "a riddle"]
        second = await session.expand(first)
        assert [child.unjudged for child in second] == [None, "a riddle"]
    assert [len(child.step_scores) for child in second] == [2, 0]
    assert len(verifier.asked) == 3
    assert session.ledger.verifier_tokens == 3 * 7
    assert [child.cost.verifier_tokens for child in second] == [14, 7]


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
        assert session.remaining.policy_tokens == budget - session.ledger.generated_tokens


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


# speculation: the policy writes on past the boundary at which a child was handed out

CHAIN = {"Q:": ["a\n\nb\n\nc\n\nd", "x\n\ny\n\nz"], "a\n\n": ["B\n\n"], "b\n\n": ["C\n\n"]}


async def test_a_survivors_own_continuation_is_its_first_child_and_the_others_fork():
    policy = ScriptedPolicy(CHAIN)
    async with open_session(policy, speculation=2) as session:
        [child] = await session.expand([await session.start(problem())], scored=False)
        grandchildren = await session.expand([child], 3, scored=False)
        assert [t.text for t in grandchildren] == ["a\n\nb\n\n", "a\n\nB\n\n", "a\n\nB\n\n"]
        assert [t.path for t in grandchildren] == [(0, 0), (0, 1), (0, 2)]
        assert len(policy.requests) == 1 + 2  # nothing was asked for twice
        [third] = await session.expand(grandchildren[:1], scored=False)
        assert third.text == "a\n\nb\n\nc\n\n"
        assert len(policy.requests) == 3


async def test_a_sequence_that_stopped_at_its_depth_is_taken_up_by_a_new_request():
    policy = ScriptedPolicy(CHAIN)
    async with open_session(policy, speculation=1) as session:
        [child] = await session.expand([await session.start(problem())], scored=False)
        [child] = await session.expand([child], scored=False)
        assert child.text == "a\n\nb\n\n"
        [child] = await session.expand([child], scored=False)
        assert child.text == "a\n\nb\n\nC\n\n"
    assert [request.prefix_ids for request in policy.requests] == [ids("Q:"), ids("Q:a\n\nb\n\n")]


async def test_releasing_a_child_aborts_what_is_written_past_it_and_counts_it_as_discarded():
    policy = ScriptedPolicy(CHAIN)
    async with open_session(policy, speculation=8) as session:
        children = await session.expand([await session.start(problem())], 2, scored=False)
        policy.gate = asyncio.Event()  # no segment from now on
        session.release(children[1:])
        assert policy.aborted == 1
        policy.gate.set()
        [first] = await session.expand(children[:1], scored=False)
    kept = first.num_tokens + children[1].num_tokens
    ledger = session.ledger
    assert ledger.generated_tokens - ledger.discarded_tokens == kept
    assert 0 < ledger.speculative_tokens == ledger.generated_tokens - 2 * len("a\n\n")


@pytest.mark.parametrize("change", ["inject", "rollout", "temperature"])
async def test_what_a_child_was_written_on_is_dropped_when_it_goes_another_way(change):
    policy = ScriptedPolicy({**CHAIN, "Wait": ["!\n\n"]})
    async with open_session(policy, speculation=8) as session:
        [child] = await session.expand([await session.start(problem())], scored=False)
        if change == "inject":
            [child] = await session.inject([child], "Wait")
            [child] = await session.expand([child], scored=False)
            assert child.text == "a\n\nWait!\n\n"
        elif change == "rollout":
            [child] = await session.rollout([child], scored=False)
            assert child.text == "a\n\nB\n\n"
        else:
            [child] = await session.expand([child], scored=False, temperature=0.0)
            assert child.text == "a\n\nB\n\n"
    forced = len("Wait") if change == "inject" else 0
    assert session.ledger.generated_tokens - session.ledger.discarded_tokens == child.num_tokens - forced


async def test_speculation_ends_where_most_of_it_is_thrown_away():
    policy = ScriptedPolicy({"Q:": ["a\n\nb\n\nc"], "\n\n": ["b\n\nc\n\n"]})
    async with open_session(policy, speculation=1) as session:
        children = await session.expand([await session.start(problem())], 5, scored=False)
        session.release(children[1:])
        await session.expand(children[:1], 4, scored=False)
    assert [request.speculate for request in policy.requests] == [1] * 5 + [0] * 3


async def test_a_capped_budget_is_not_spent_on_speculation():
    policy = ScriptedPolicy(CHAIN)
    async with open_session(policy, speculation=8, budget=1000) as session:
        await session.expand([await session.start(problem())], scored=False)
    assert [request.speculate for request in policy.requests] == [0]
    assert session.ledger.speculative_tokens == 0


async def test_a_failure_past_the_boundary_reaches_whoever_takes_that_up():
    policy = ScriptedPolicy(CHAIN)
    async with open_session(policy, speculation=8) as session:
        policy.fails_after = 1
        [child] = await session.expand([await session.start(problem())], scored=False)
        with pytest.raises(RuntimeError, match="scripted"):
            await session.expand([child], scored=False)


class WholeText(ExactAnswers):
    def __init__(self) -> None:
        self.extract = lambda text: text


async def test_results_have_the_same_distribution_with_and_without_speculation():
    """A beam search over a policy that flips biased coins: how often each text wins."""
    judge = {"a": 0.5, "b": 0.4, "c": 0.6}

    async def frequencies(speculation: int, first: int) -> Counter[str]:
        won: Counter[str] = Counter()
        for seed in range(first, first + 600):
            session = SearchSession(
                policy=CoinPolicy(),
                verifier=TableVerifier(lambda text: sum(judge.get(letter, 0.0) for letter in text) % 1),
                sampling=Sampling(max_tokens=100),
                budget=Budget(),
                run_seed=seed,
                answers=WholeText(),
                speculation=speculation,
            )
            async with session:
                result = await BeamSearch(n=4, beam_width=2).search(problem(), session)
            won[result.answer or ""] += 1
            assert (session.ledger.speculative_tokens > 0) == (speculation > 0)
        return won

    without, with_it = await frequencies(0, 0), await frequencies(3, 10_000)
    assert len(without) > 5
    for text in without | with_it:
        share = (without[text] + with_it[text]) / 1200
        standard_error = (2 * share * (1 - share) / 600) ** 0.5
        assert abs(without[text] - with_it[text]) / 600 < 4 * standard_error, text


# budgets


def cap(kind: str, amount: float) -> Budget:
    return Budget(**{kind: amount})


KINDS = pytest.mark.parametrize("kind", ["policy_tokens", "verifier_tokens", "flops", "candidates"])
BUDGETED = {
    "Q:": ["a\n\nb\n\nAnswer: 1", "x\n\nAnswer: 22"],
    "\n\n": ["b\n\nAnswer: 3"],
    "[IDX]": ["Judgment: [0]"],
    "Ans": ["wer: 3"],
    "3": [""],
}


async def under_cap(strategy, policy, kind: str, amount: float):
    """The result and the session of a search that spends no more than its cap, of which nothing stays promised."""
    async with open_session(policy, TableVerifier(by_length), budget=cap(kind, amount)) as session:
        result = await strategy.search(problem(), session)
    ledger = session.ledger
    spent = {
        "policy_tokens": ledger.generated_tokens,
        "verifier_tokens": ledger.verifier_tokens,
        "flops": ledger.policy_flops + ledger.verifier_flops,
        "candidates": ledger.candidates,
    }
    assert spent[kind] <= amount
    assert getattr(session.remaining, kind) == amount - spent[kind]
    return result, session


@KINDS
@pytest.mark.parametrize("amount", [1, 2, 5, 9, 16, 23, 50, 90, 200])
@pytest.mark.parametrize(
    "strategy",
    [
        BestOfN(n=5),
        BeamSearch(n=6, beam_width=2),
        Rebase(n=6),
        AdaptiveConsistency(n=6, window=3),
        SelfRefine(n=2, request="Q:"),
        DeepConf(n=5),
        DeepConf(n=6, n_warmup=2, group_tokens=6, confidence="lowest_group", consensus=None),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
async def test_no_cap_is_exceeded_by_one(kind, amount, strategy):
    result, session = await under_cap(strategy, ScriptedPolicy(BUDGETED), kind, amount)
    whole = {"policy_tokens": 80, "verifier_tokens": 82, "flops": 10_000, "candidates": 5}
    assert session.cut_short or amount >= whole[kind] or not isinstance(strategy, BestOfN)
    assert session.cut_short == any(c.trajectory.status is Status.TRUNCATED for c in result.candidates) or (
        kind == "candidates"
    )
    assert len(result.candidates) == session.ledger.candidates


@KINDS
@pytest.mark.parametrize("amount", [1, 9, 23, 50, 90, 100, 120, 160, 1500, 3000, 10_000])
@pytest.mark.parametrize("strategy", [GenSelect(n=5), Tournament(n=5)], ids=lambda strategy: type(strategy).__name__)
async def test_comparisons_are_written_under_the_same_caps(kind, amount, strategy):
    policy = ScriptedPolicy(BUDGETED)
    result, session = await under_cap(strategy, policy, kind, amount)
    assert len(result.candidates) == min(5, amount if kind == "candidates" else 5)
    judgments = sum(request.prefix_ids != ids("Q:") for request in policy.requests)
    assert session.ledger.candidates >= len(result.candidates) + judgments  # each is one
    enough = {"policy_tokens": 90, "verifier_tokens": 1, "flops": 10_000, "candidates": 9}
    assert bool(judgments) == (amount >= enough[kind])


async def test_the_searches_of_a_run_share_its_budget():
    run = Account(Budget(policy_tokens=20, candidates=3))
    total = Ledger()
    for _ in range(4):
        session = open_session(ScriptedPolicy({"Q:": ["abcdefg"]}), run_account=run)
        async with session:
            await session.rollout([await session.start(problem())], 2, scored=False)
        total += session.ledger
    assert (total.generated_tokens, total.candidates) == (20, 3)


async def test_a_call_waits_for_what_others_give_back_before_it_is_cut_short():
    policy = ScriptedPolicy({"Q:": ["abcdefg"]})
    async with open_session(policy, max_tokens=100, budget=100) as session:
        root = await session.start(problem())
        calls = [session.rollout([root], scored=False) for _ in range(12)]
        children = [child for [child] in await asyncio.gather(*calls)]
    assert [child.status for child in children] == [Status.FINISHED] * 12
    assert session.ledger.generated_tokens == 12 * 8


class SlowToAbort(ScriptedPolicy):
    """Says only after an abort that it had sampled five tokens that nobody saw."""

    def __init__(self, script) -> None:
        super().__init__(script)
        self.asked = asyncio.Event()

    def generate(self, requests):
        writing = super().generate(requests)
        writing.ready = LateReports()
        self.asked.set()
        return writing


class LateReports(list):
    def append(self, item):
        index, segment = item
        super().append((index, replace(segment, discarded_tokens=5)))


async def test_what_an_aborted_call_may_have_sampled_stays_promised_until_the_engine_has_said():
    run = Account(Budget(policy_tokens=20))
    policy = SlowToAbort({"Q:": ["abcdefg" * 9]})
    policy.gate = asyncio.Event()
    async with open_session(policy, run_account=run) as session:
        call = asyncio.create_task(session.rollout([await session.start(problem())], scored=False))
        await policy.asked.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert run.left("policy_tokens") == 0
        policy.gate.set()
    assert session.ledger.generated_tokens == 5
    assert run.left("policy_tokens") == 15


async def test_what_a_failed_call_was_promised_is_given_back():
    run = Account(Budget(policy_tokens=20))
    policy = ScriptedPolicy({"Q:": ["a\n\nb"]})
    policy.fails_after = 1
    with pytest.raises(RuntimeError, match="a scripted failure"):
        async with open_session(policy, run_account=run) as session:
            await session.rollout([await session.start(problem())], 2, scored=False)
    assert run.left("policy_tokens") == 20 - session.ledger.generated_tokens == 17


async def test_at_its_deadline_a_search_has_its_best_answer_so_far():
    policy, verifier = ScriptedPolicy({"Q:": ["Answer: 1", "a\n\n" * 50]}), TableVerifier(by_length)
    async with open_session(policy, verifier, budget=Budget(seconds=0.2)) as session:
        [quick] = await session.rollout([await session.start(problem())])
        policy.gate = asyncio.Event()
        [slow] = await session.rollout([await session.start(problem())])
        assert (quick.status, slow.status) == (Status.FINISHED, Status.TRUNCATED)
        [none] = await session.rollout([await session.start(problem())])
        assert (none.status, none.num_tokens) == (Status.TRUNCATED, 0)
        policy.gate.set()
    assert session.cut_short
    assert not verifier.states


async def test_a_problem_is_encoded_once():
    policy = ScriptedPolicy(TWO_STEPS)
    encoded = []

    async def encode(problems):
        encoded.extend(problems)
        return [ids(each.messages[-1].content) for each in problems]

    policy.encode = encode
    async with open_session(policy) as session:
        assert await session.start(problem()) == await session.start(problem())
        other = await session.start(problem("another"))
    assert other.prompt_ids == ids("another")
    assert encoded == [problem(), problem("another")]


async def test_a_search_that_is_told_to_end_has_its_best_answer_so_far():
    policy, verifier = ScriptedPolicy({"Q:": ["Answer: 1", "a\n\n" * 50]}), TableVerifier(by_length)
    async with open_session(policy, verifier) as session:
        root = await session.start(problem())
        [quick] = await session.rollout([root])
        policy.gate = asyncio.Event()
        writing = asyncio.create_task(session.rollout([root]))
        await asyncio.sleep(0)  # it waits for its first segment
        session.end_within(0.01)
        [slow] = await writing
        [none] = await session.rollout([root])
        assert (quick.status, slow.status, none.status) == (Status.FINISHED, Status.TRUNCATED, Status.TRUNCATED)
        policy.gate.set()
        result = session.with_end_reason(SearchResult(candidates=(), chosen=None))
    assert result.end_reason is EndReason.DEADLINE
    assert not verifier.states


async def test_the_costs_of_independent_samples_add_up_to_the_searchs():
    policy, verifier = ScriptedPolicy(TWO_STEPS), TableVerifier(by_length)
    async with open_session(policy, verifier) as session:
        children = await session.rollout([await session.start(problem())], 4)
    summed = sum((child.cost for child in children), Ledger())
    ledger = session.ledger
    assert summed.generated_tokens == ledger.generated_tokens
    assert summed.prompt_tokens == ledger.prompt_tokens == 4 * len("Q:")
    assert summed.policy_flops == ledger.policy_flops
    assert summed.verifier_tokens == ledger.verifier_tokens - len("Q:")
    assert verifier.state_bytes <= ledger.peak_state_bytes <= verifier.state_bytes * 5  # the prompt's and four more


class StoppedPolicy(ScriptedPolicy):
    """Its stop text began in a step that was given out already, as the host then tells it."""

    def _plan(self, request):
        first, second = Segment(token_ids=ids("a\n\n"), text="a\n\n"), Segment(token_ids=ids("Q"), text="Q")
        if text_of(request.prefix_ids).endswith("a\n\n"):
            assert request.seen == "\n\n"
            return [replace(second, finish=Finish.STOP)]
        if request.until_step:
            return [replace(first, finish=Finish.BOUNDARY)]
        return [first, replace(second, finish=Finish.STOP)]


@pytest.mark.parametrize("by_steps", [False, True])
async def test_a_stop_text_that_spans_steps_ends_the_answer_before_it(by_steps):
    async with open_session(StoppedPolicy({}), stop=["\n\nQ"]) as session:
        trajectories = [await session.start(problem())]
        if by_steps:
            trajectories = await session.expand(trajectories, scored=False)
            [child] = await session.expand(trajectories, scored=False)
        else:
            [child] = await session.rollout(trajectories, scored=False)
    assert (child.text, child.status, child.num_tokens) == ("a", Status.FINISHED, 4)


async def test_a_stop_text_of_the_sampling_finishes_the_answer_before_it():
    policy = ScriptedPolicy({"Q:": ["Answer: 4\nQ: next"]})
    async with open_session(policy, stop=["\nQ:"]) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
    assert (child.status, child.answer, child.text) == (Status.FINISHED, "4", "Answer: 4")
    assert child.num_tokens == len("Answer: 4\nQ:"), "the tokens of the stop were sampled, too"


async def test_what_is_written_is_read_back_at_the_price_of_a_token() -> None:
    async with open_session(ScriptedPolicy({"Q:": ["a"]})) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
        written = session.ledger
        [answer] = await session.read([child], likeliest=1, prompt=False)
        [whole] = await session.read([child], likeliest=0, prompt=True)
    assert [(token.text, token.special, token.logprob) for token in answer] == [
        ("a", False, -0.097),
        ("<eos>", True, 0),
    ]
    assert answer[0].likeliest == (("a", -0.097),)
    assert [token.text for token in whole] == ["Q", ":", "a", "<eos>"]
    assert whole[0].logprob is None and not whole[1].likeliest
    assert session.ledger.generated_tokens - written.generated_tokens == 2
    assert session.ledger.discarded_tokens - written.discarded_tokens == 2
    assert session.ledger.candidates == 1


@pytest.mark.parametrize("budget", [Budget(policy_tokens=2), Budget(flops=12)], ids=["tokens", "flops"])
async def test_what_no_budget_is_left_for_is_not_read_back(budget) -> None:
    policy = ScriptedPolicy({"Q:": ["a"]})
    async with open_session(policy, budget=budget) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
        assert await session.read([child], likeliest=1, prompt=True) == [None]
    assert session.cut_short and len(policy.requests) == 1


async def test_what_fills_the_context_can_not_be_read_back() -> None:
    async with open_session(ScriptedPolicy({"Q:": ["abc"]}, context_length=5)) as session:
        [child] = await session.rollout([await session.start(problem())], scored=False)
        assert await session.read([child], likeliest=1, prompt=True) == [None]
    assert not session.cut_short
