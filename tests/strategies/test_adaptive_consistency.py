import asyncio
import math
from dataclasses import replace

import pytest

from orchestrator.core.nouns import Selection
from strategies.adaptive_consistency import AdaptiveConsistency
from strategies.self_consistency import SelfConsistency
from tests.fakes import ScriptedPolicy, open_session, problem
from tests.strategies.searching import run

AGREED = {"Q:": ["Answer: 1"]}
TORN = {"Q:": ["Answer: 1", "Answer: 2"]}


@pytest.mark.parametrize(("rule", "samples"), [("beta", 4), ("dirichlet", 4), ("window", 4)])
async def test_samples_that_agree_settle_the_vote_early(rule, samples):
    result, policy = await run(AdaptiveConsistency(n=64, rule=rule), AGREED)
    assert (result.answer, result.selection) == ("1", Selection.MAJORITY)
    assert len(result.candidates) == len(policy.requests) == result.detail["samples"] == samples


@pytest.mark.parametrize("rule", ["beta", "dirichlet", "window"])
async def test_samples_that_do_not_agree_go_on_to_n(rule):
    result, policy = await run(AdaptiveConsistency(n=12, rule=rule, window=3), TORN)
    assert len(result.candidates) == len(policy.requests) == 12


async def test_a_higher_threshold_takes_more_votes():
    few, _ = await run(AdaptiveConsistency(n=64, threshold=0.8, window=1), AGREED)
    many, _ = await run(AdaptiveConsistency(n=64, threshold=0.999, window=1), AGREED)
    assert (len(few.candidates), len(many.candidates)) == (2, 9)


async def test_the_dirichlet_rule_counts_all_the_other_answers():
    scattered = {"Q:": [f"Answer: {answer}" for answer in (1, 1, 2, 3, 4, 1, 1, 1, 5, 6, 1, 1, 1, 1, 1, 1)]}
    beta, _ = await run(AdaptiveConsistency(n=64, window=1), scattered)
    dirichlet, _ = await run(AdaptiveConsistency(n=64, window=1, rule="dirichlet"), scattered)
    assert beta.answer == dirichlet.answer == "1"
    assert len(beta.candidates) < len(dirichlet.candidates)


async def test_a_window_must_agree_as_a_whole_and_no_answer_agrees_with_none():
    script = {"Q:": ["Answer: 1", "no idea", "Answer: 1", "Answer: 1", "no idea", "no idea"]}
    result, _ = await run(AdaptiveConsistency(n=6, rule="window", window=2), script)
    assert (result.answer, len(result.candidates)) == ("1", 4)


async def test_a_lead_that_can_not_be_caught_up_with_settles_the_vote():
    script = {"Q:": ["Answer: 1", "Answer: 2", "Answer: 1", "Answer: 1", "Answer: 2"]}
    result, _ = await run(AdaptiveConsistency(n=5, threshold=0.99, window=1), script)
    assert len(result.candidates) == 4


async def test_answers_that_are_equal_vote_together():
    result, _ = await run(AdaptiveConsistency(n=64, window=1), {"Q:": ["Answer: 1,000", "Answer: 1000"]})
    assert len(result.candidates) == 4


# a token's log-probability is minus its code point, which is next to impossible
async def test_by_cges_votes_of_no_confidence_settle_nothing():
    result, policy = await run(AdaptiveConsistency(n=12, rule="cges"), AGREED)
    assert (result.answer, len(result.candidates)) == ("1", 12)
    assert all(request.logprobs == 0 for request in policy.requests)


class Sure(ScriptedPolicy):
    """Writes each answer with the probability per token that it names."""

    def _plan(self, request):
        segments = super()._plan(request)
        probability = float(segments[0].text.rsplit(" ", 1)[1])
        return [replace(s, logprob=len(s.token_ids) * math.log(probability)) for s in segments]


async def cges(*texts, **fields):
    async with open_session(Sure({"Q:": [f"Answer: {text}" for text in texts]})) as session:
        return await AdaptiveConsistency(n=8, rule="cges", window=1, **fields).search(problem(), session)


async def test_by_cges_one_vote_that_is_sure_enough_settles_it():
    assert len((await cges("0.97")).candidates) == 1
    assert len((await cges("0.9")).candidates) == 2
    assert len((await cges("0.9", threshold=0.85)).candidates) == 1


async def test_by_cges_the_likeliest_answer_is_chosen_and_not_the_most_frequent():
    result = await cges("0.6", "0.6", "0.96", "0.6", "0.96", "0.96", "0.6", "0.6", threshold=0.999999)
    assert (result.answer, result.selection) == ("0.96", Selection.WEIGHTED)
    assert result.score == pytest.approx(0.96) and 0.95 < result.detail["posterior"] <= 1


class TwoStall(ScriptedPolicy):
    """The first two samples don't end until the test lets them."""

    def __init__(self, script) -> None:
        super().__init__(script)
        self.let_go = asyncio.Event()

    def generate(self, requests):
        writing = super().generate(requests)
        if len(self.requests) <= 2:
            writing.gate = self.let_go
        return writing


async def test_what_is_still_being_written_is_aborted_once_the_vote_is_settled():
    policy = TwoStall(AGREED)
    async with open_session(policy) as session:
        result = await AdaptiveConsistency(n=64, window=6).search(problem(), session)
        policy.let_go.set()
    assert [candidate.trajectory.path for candidate in result.candidates] == [(2,), (3,), (4,), (5,)]
    assert result.detail == {"samples": 6, "aborted": 2}
    assert (policy.aborted, session.ledger.candidates) == (2, 4)


async def test_it_draws_the_samples_that_self_consistency_would():
    _, adaptive = await run(AdaptiveConsistency(n=8, window=4), TORN)
    _, uniform = await run(SelfConsistency(n=8), TORN)
    assert [request.seed for request in adaptive.requests] == [request.seed for request in uniform.requests]


async def test_a_sample_that_fails_fails_the_search_with_its_own_error():
    policy = ScriptedPolicy(AGREED)
    policy.fails_after = 0
    with pytest.raises(RuntimeError, match="a scripted failure"):
        async with open_session(policy) as session:
            await AdaptiveConsistency(n=8).search(problem(), session)


async def test_it_ends_with_its_token_budget():
    result, _ = await run(AdaptiveConsistency(n=64), TORN, budget=30)
    assert len(result.candidates) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "adaptive_consistency: n must be >= 1, got 0"),
        ({"threshold": 0.5}, "threshold must be above 0.5 and below 1, got 0.5"),
        ({"threshold": 1.0}, "threshold must be above 0.5 and below 1, got 1.0"),
        ({"window": 0}, "window must be >= 1, got 0"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveConsistency(**fields)
