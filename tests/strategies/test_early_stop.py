import asyncio
from dataclasses import replace

import pytest

from orchestrator.core.nouns import Score
from strategies.early_stop import EarlyStop
from tests.fakes import ScriptedPolicy, TableVerifier, open_session, problem
from tests.strategies.searching import OneHeldBack, belief, run

# the first sample finishes at once, the second is two steps from its end
SCRIPT = {"Q:": ["Answer: 1", "a\n\n-"], "a\n\n": ["b\n\n-"], "b\n\n": ["Answer: 2"]}


def answers(result):
    return [candidate.trajectory.answer for candidate in result.candidates]


async def test_a_sample_below_the_best_finished_one_is_given_up():
    result, policy = await run(EarlyStop(n=2), SCRIPT, belief({"1": 0.7, "a\n\n": 0.6, "b\n\n": 0.9}))
    assert (answers(result), result.detail) == (["1"], {"stopped": 1})
    assert len(policy.requests) == 2


async def test_a_sample_that_may_still_win_is_written_to_its_end():
    result, policy = await run(EarlyStop(n=2), SCRIPT, belief({"1": 0.7, "a\n\n": 0.8, "b\n\n": 0.7, "2": 0.9}))
    assert (answers(result), result.answer, result.detail) == (["1", "2"], "2", {"stopped": 0})
    assert len(policy.requests) == 4


class UnsureVerifier(TableVerifier):
    def _verdict(self, reading):
        verdict = super()._verdict(reading)
        return replace(verdict, scores=tuple(Score(mean=score.mean, std=0.1) for score in verdict.scores))


@pytest.mark.parametrize(("z", "stopped"), [(0.0, 1), (1.0, 1), (1.5, 0)])
async def test_doubt_is_counted_in_the_samples_favour(z, stopped):
    verifier = UnsureVerifier(belief({"1": 0.72, "a\n\n": 0.6, "b\n\n": 0.9, "2": 0.5}))
    async with open_session(ScriptedPolicy(SCRIPT), verifier) as session:
        result = await EarlyStop(n=2, z=z).search(problem(), session)
    assert result.detail["stopped"] == stopped


async def test_a_floor_stops_samples_before_any_is_finished_but_never_the_last():
    script = {"Q:": ["a\n\n-"], "a\n\n": ["b\n\n-"], "b\n\n": ["Answer: 2"]}
    result, policy = await run(EarlyStop(n=4, min_value=0.5), script, lambda text: 0.1)
    assert (answers(result), result.detail) == (["2"], {"stopped": 3})
    assert len(policy.requests) == 4 + 2


async def test_a_sample_cut_by_a_cap_stops_no_other():
    script = {"Q:": ["too long to end", "a\n\n-"], "a\n\n": ["b\n\n-"], "b\n\n": ["yes"]}
    judge = belief({"too long ": 0.9, "a\n\n": 0.1, "b\n\n": 0.1, "yes": 0.1})
    result, _ = await run(EarlyStop(n=2), script, judge, max_tokens=9)
    assert result.detail == {"stopped": 0}


async def test_without_a_floor_nothing_stops_before_one_is_finished():
    script = {"Q:": ["a\n\n-"], "a\n\n": ["b\n\n-"], "b\n\n": ["Answer: 2"]}
    result, _ = await run(EarlyStop(n=4, min_value=0.0), script, lambda text: 0.0)
    assert answers(result) == ["2"] * 4


async def test_samples_do_not_wait_for_each_other():
    script = {"Q:": ["a\n\n-", "c\n\n-"], "a\n\n": ["Answer: 1"], "c\n\n": ["d\n\n-"], "d\n\n": ["Answer: 2"]}
    policy, read = OneHeldBack(script, "a\n\n"), asyncio.Event()

    def judge(text: str) -> float:
        if text.endswith("Answer: 2"):
            read.set()
        return 0.5

    async with open_session(policy, TableVerifier(judge)) as session:
        search = asyncio.ensure_future(EarlyStop(n=2).search(problem(), session))
        await read.wait()  # the second sample is at its end while the first is still at its second step
        assert not search.done()
        policy.let_go.set()
        assert answers(await search) == ["1", "2"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "early_stop: n must be >= 1, got 0"),
        ({"z": -1}, "early_stop: z must be >= 0, got -1"),
        ({"min_value": 1.1}, "early_stop: min_value must be between 0 and 1, got 1.1"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        EarlyStop(**fields)
