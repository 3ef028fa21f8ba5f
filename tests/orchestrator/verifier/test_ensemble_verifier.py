"""Facts about ensembles, over verifiers whose states are looked at."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from orchestrator.core.nouns import Score, StateHandle
from orchestrator.core.protocols import ScoreRequest, Verdict
from orchestrator.verifier.chains import PolicyWriter
from orchestrator.verifier.ensemble import EnsembleVerifier
from orchestrator.verifier.generative import GenerativeVerifier
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from tests.fakes import CoinPolicy, ScriptedPolicy, TableVerifier, ids, open_session, problem, text_of
from verifiers.ensemble import Ensemble, Member, mixture
from verifiers.llm_judge import LLMJudge


class Table(TableVerifier):
    """A table verifier that can be a member."""

    num_ready = 1

    async def stats(self) -> list[dict[str, int]]:
        return [{"tokens_read": len(self.batches)}]


def ensemble(*members: Table, weights: Sequence[float] | None = None, slots: int = 1024) -> EnsembleVerifier:
    own = [Member(weight=weight, slots=slots, host_slots=0) for weight in weights or [1.0] * len(members)]
    return EnsembleVerifier(Ensemble(members=own), members)


def share_of(letter: str) -> Callable[[str], float]:
    return lambda text: (1 + text.count(letter)) / (2 + len(text))


def pair(**settings: object) -> tuple[EnsembleVerifier, Table, Table]:
    a, b = Table(share_of("a")), Table(share_of("b"))
    return ensemble(a, b, **settings), a, b


async def read(verifier: EnsembleVerifier, text: str, **fields: object) -> Verdict:
    [verdict] = await verifier.score([ScoreRequest(token_ids=ids(text), boundaries=(len(text),), **fields)])
    return verdict


async def test_scores_are_mixed_by_weight_and_costs_add_up() -> None:
    verifier, *_ = pair(weights=[1.0, 3.0])
    verdict = await read(verifier, "aab")
    assert verdict.scores == (mixture([Score(mean=3 / 5), Score(mean=2 / 5)], [1.0, 3.0]),)
    assert verdict.verifier_tokens == 6
    assert (verifier.flops_per_token, verifier.state_bytes) == (2.0, 20)
    assert await verifier.stats() == [{"tokens_read": 1}, {"tokens_read": 1}]


async def test_one_verifier_twice_is_that_verifier_at_twice_the_cost() -> None:
    results, ledgers = [], []
    for verifier in (Table(share_of("a")), ensemble(Table(share_of("a")), Table(share_of("a")))):
        async with open_session(CoinPolicy(), verifier) as session:
            results.append(await BeamSearch(n=8, beam_width=2).search(problem(), session))
        ledgers.append(session.ledger)
    one, two = [[candidate.trajectory.step_scores for candidate in result.candidates] for result in results]
    assert one and [step for steps in two for step in steps] == pytest.approx([step for steps in one for step in steps])
    assert results[0].answer == results[1].answer
    assert ledgers[1].verifier_tokens == 2 * ledgers[0].verifier_tokens
    assert ledgers[1].peak_state_bytes == 2 * ledgers[0].peak_state_bytes


async def test_members_go_on_from_their_own_carries() -> None:
    verifier, *_ = pair()
    prefix = await read(verifier, "aab")
    child = await read(verifier, "aabab", handle=prefix.handle)
    assert child.verifier_tokens == 4
    assert child.scores == (await read(verifier, "aabab")).scores
    assert (await read(verifier, "aabbb", handle=prefix.handle, keep_parent=False)).verifier_tokens == 4
    assert child.handle.key in verifier._held and prefix.handle.key not in verifier._held


async def test_a_released_carry_frees_every_member_and_releasing_again_changes_nothing() -> None:
    verifier, a, b = pair()
    verdict = await read(verifier, "aab")
    assert a.states and b.states
    for _ in range(2):
        verifier.release([verdict.handle])
        assert not (a.states or b.states or verifier._held)


async def test_a_lost_carry_costs_time_and_changes_no_score() -> None:
    verifier, *_ = pair()
    prefix = await read(verifier, "aab")
    expected = await read(verifier, "aabab", handle=prefix.handle)
    verifier.release([prefix.handle])
    verdict = await read(verifier, "aabab", handle=prefix.handle, keep_parent=False)
    assert verdict.scores == expected.scores
    assert (verdict.verifier_tokens, verdict.reingested_tokens) == (10, 6)


async def test_carries_are_bounded_and_the_one_used_longest_ago_goes_first() -> None:
    verifier, a, b = pair(slots=2)
    first, second = await read(verifier, "a"), await read(verifier, "b")
    await read(verifier, "ab", handle=first.handle)
    assert len(verifier._held) == len(a.states) == len(b.states) == 2
    assert (await read(verifier, "ac", handle=first.handle)).reingested_tokens == 0
    assert (await read(verifier, "bc", handle=second.handle)).reingested_tokens == 2


async def test_members_judge_at_the_same_time() -> None:
    verifier, a, b = pair()
    a.gate = asyncio.Event()
    judging = asyncio.create_task(read(verifier, "aab"))
    async with asyncio.timeout(5):
        await b.started.wait()
    assert not judging.done()
    a.gate.set()
    assert (await judging).scores


@pytest.mark.parametrize("leaves", [True, False])
async def test_when_a_member_fails_or_the_caller_leaves_no_state_is_left_behind(leaves: bool) -> None:
    verifier, a, b = pair()
    b.gate = asyncio.Event()
    judging = asyncio.create_task(read(verifier, "aab"))
    await b.started.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert a.states
    if leaves:
        judging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await judging
    else:
        b.judge = lambda text: 1 / 0
        b.gate.set()
        with pytest.raises(ZeroDivisionError):
            await judging
    assert not a.states and not verifier._held


async def test_what_one_member_can_not_judge_the_ensemble_can_not_and_no_state_is_left_behind() -> None:
    class Unsure(Table):
        def _verdict(self, reading: ScoreRequest) -> Verdict:
            if "?" in text_of(reading.token_ids):
                return Verdict(scores=(), handle=None, verifier_tokens=1, unjudged="a riddle")
            return super()._verdict(reading)

    sure, unsure = Table(share_of("a")), Unsure(share_of("b"))
    verifier = ensemble(sure, unsure)
    prefix = await read(verifier, "aab")
    refused = await read(verifier, "aab?", handle=prefix.handle)
    assert (refused.unjudged, refused.scores, refused.handle, refused.verifier_tokens) == ("a riddle", (), None, 2)
    assert len(sure.states) == len(unsure.states) == len(verifier._held) == 1
    assert (await read(verifier, "aabb", handle=prefix.handle)).unjudged is None


async def test_a_search_leaves_no_state_behind() -> None:
    verifier, a, b = pair()
    async with open_session(CoinPolicy(), verifier) as session:
        await BeamSearch(n=8, beam_width=2).search(problem(), session)
    assert session.ledger.peak_state_bytes > 0
    assert not (a.states or b.states or verifier._held)


async def test_a_verifier_that_carries_states_and_one_that_writes_judge_together() -> None:
    script = {"Q:": ["Answer: 1", "Answer: 2"], "1#": ["Rating: \\boxed{10}"], "2#": ["Rating: \\boxed{0}"]}
    policy, table = ScriptedPolicy(script), Table(lambda text: 0.6 if text.endswith("2") else 0.4)
    writes = GenerativeVerifier(LLMJudge(template="{problem}{solution}#"), PolicyWriter(policy))
    verifier = ensemble(table, writes, weights=[3.0, 1.0])
    assert (verifier.reads_text, verifier.scores_steps) == (True, True)
    async with open_session(policy, verifier) as session:
        result = await BestOfN(n=2).search(problem(), session)
    assert [c.aggregate_score for c in result.candidates] == pytest.approx([0.75 * 0.4 + 0.25, 0.75 * 0.6])
    assert result.answer == "1"
    assert not table.states and not verifier._held
    prompt, *children = [reading for batch in table.batches for reading in batch]
    assert prompt.boundaries == () and len(children) == 2, "the prompt is read once, and by the one that reads tokens"
    assert all(child.handle is not None and child.handle.num_tokens == len(prompt.token_ids) for child in children)


async def test_a_member_that_judges_whole_solutions_only_makes_the_ensemble_do_so() -> None:
    verifier, _, b = pair()
    b.scores_steps = False
    assert not verifier.scores_steps
    async with open_session(CoinPolicy(), verifier) as session:
        [child] = await session.rollout([await session.start(problem())])
    assert [step.score is not None for step in child.steps] == [False] * (len(child.steps) - 1) + [True]


async def test_an_ensemble_without_states_carries_none() -> None:
    policy = ScriptedPolicy({"#": ["Rating: \\boxed{4}"]})
    writes = GenerativeVerifier(LLMJudge(template="{problem}{solution}#"), PolicyWriter(policy))
    verifier = ensemble(writes, writes)
    async with open_session(ScriptedPolicy({"Q:": ["x"]}), verifier) as session:
        [child] = await session.rollout([await session.start(problem())])
    assert child.step_scores == pytest.approx((0.4,)) and session.ledger.peak_state_bytes == 0


def test_an_ensemble_is_as_ready_as_its_least_ready_member() -> None:
    verifier, a, _ = pair()
    assert verifier.num_ready == 1
    a.num_ready = 0
    assert verifier.num_ready == 0


async def test_a_handle_of_nobody_is_ignored() -> None:
    verifier, a, b = pair()
    verdict = await read(verifier, "aab")
    states = dict(a.states), dict(b.states)
    verifier.release([StateHandle(replica=0, epoch=0, key="unknown", num_tokens=1)])
    assert (a.states, b.states) == states and verdict.handle is not None
