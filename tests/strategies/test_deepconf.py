import re
from dataclasses import replace

import pytest

from orchestrator.core.nouns import Selection, Status
from strategies.certainty import TOP_K
from strategies.deepconf import DeepConf, SampleConfidence, bar_of, sample_confidence
from tests.fakes import ScriptedPolicy, open_session, problem
from tests.strategies.searching import run

TOKENS = [9.0, 9.0, 1.0, 3.0, 9.0, 8.0]  # groups of two: 9, 5, 2, 6, 8.5


@pytest.mark.parametrize(
    ("by", "confidence"), [("mean", 6.5), ("lowest_group", 2.0), ("bottom_groups", 2.0), ("tail", 8.5)]
)
def test_a_sample_is_as_confident_as_the_groups_that_count(by, confidence):
    assert sample_confidence(TOKENS, SampleConfidence(by), 2) == pytest.approx(confidence)


def test_the_bottom_groups_are_a_tenth_of_all():
    groups = [float(number) for number in range(20, 0, -1)]
    assert sample_confidence(groups, SampleConfidence.bottom_groups, 1) == 1.5


@pytest.mark.parametrize("by", SampleConfidence)
def test_a_sample_shorter_than_a_group_is_one_group_and_of_none_nothing_is_known(by):
    assert sample_confidence([2.0, 4.0], by, 3) == 3.0
    assert sample_confidence([], by, 3) is None


@pytest.mark.parametrize(
    ("keep", "bar"), [(0.1, 0.9), (0.25, 0.9), (0.3, 0.7), (0.5, 0.7), (0.75, 0.5), (0.76, 0.1), (1.0, 0.1)]
)
def test_the_bar_is_the_least_confidence_in_the_share_which_is_rounded_up(keep, bar):
    assert bar_of([0.5, None, 0.9, 0.1, 0.7], keep) == bar


def test_a_share_is_not_rounded_up_for_what_the_product_loses():
    assert 0.28 * 25 > 7
    assert bar_of([float(number) for number in range(25)], 0.28) == 18.0


def test_where_no_confidence_is_known_there_is_no_bar():
    assert bar_of([None, None], 0.5) is None


# The policy is surer of a space than of a digit, and of that than of a letter: see `confidence_of`.
SAMPLES = {"Q:": ["Answer: z", "Answer: z", "Answer: z", "Answer: 1    1    1"]}


async def test_a_confident_sample_outweighs_a_majority_of_unsure_ones():
    result, policy = await run(DeepConf(n=4, keep=0.25), SAMPLES)
    assert (result.answer, result.selection) == ("1    1    1", Selection.WEIGHTED)
    assert result.score == max(candidate.aggregate_score for candidate in result.candidates)
    assert result.detail == {"voters": [3], "bar": result.score, "samples": 4, "stopped": 0, "aborted": 0}
    assert all(request.logprobs == TOP_K for request in policy.requests)


async def test_the_confidence_of_the_lowest_group_may_rank_otherwise_than_the_mean():
    dip = "zzzzzzzz\n\n" + "  \n\n" * 30 + "Answer: 1"
    script = {"Q:": [dip, "aaaa\n\nAnswer: 2"]}
    mean, _ = await run(DeepConf(n=2), script)
    lowest, _ = await run(DeepConf(n=2, confidence="lowest_group", group_tokens=8), script)
    assert (mean.answer, lowest.answer) == ("1", "2")


async def test_samples_that_are_equally_confident_vote_together():
    result, _ = await run(DeepConf(n=4, keep=0.5), SAMPLES)
    assert result.detail["voters"] == [0, 1, 2, 3]


async def test_votes_weigh_as_much_as_they_are_confident():
    result, _ = await run(DeepConf(n=3, keep=1.0), {"Q:": ["Answer: z", "Answer: 1    1    1", "Answer: y"]})
    assert (result.answer, result.detail["voters"]) == ("1    1    1", [0, 1, 2])
    plain, _ = await run(DeepConf(n=3, keep=1.0), {"Q:": ["Answer: z", "Answer: 1    1    1", "Answer: z"]})
    assert plain.answer == "z", "of two that are more than half as confident"


async def test_a_sample_without_an_answer_has_no_vote_and_takes_no_place_of_one():
    result, _ = await run(DeepConf(n=4), {"Q:": ["   ", "Answer: 2", "Answer: 3", "   "]})
    assert (result.answer, result.detail["voters"]) == ("2", [1])


async def test_without_any_answer_there_is_a_candidate_all_the_same():
    result, _ = await run(DeepConf(n=2), {"Q:": ["zz", "  "]})
    assert (result.answer, result.chosen, result.detail["voters"]) == (None, 1, [])


ONLINE = {"Q:": ["aa\n\nAnswer: 1", "aa\n\nAnswer: 2", "aa\n\nzzzz\n\nAnswer: 7", "aa\n\nAnswer: 1"]}
STRATEGY = DeepConf(n=4, n_warmup=2, keep=1.0, group_tokens=4, confidence="lowest_group")


async def test_online_a_sample_that_falls_below_the_warm_up_is_written_no_further():
    policy = ScriptedPolicy(ONLINE)
    async with open_session(policy) as session:
        result = await STRATEGY.search(problem(), session)
    whole = len("aa\n\nAnswer: 1") + 1
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["1", "2", "1"]
    assert (result.answer, result.detail["stopped"]) == ("1", 1)
    assert result.detail["bar"] == result.candidates[0].aggregate_score
    assert [request.floor is None for request in policy.requests] == [True, True, False, False]
    assert {request.floor.least for request in policy.requests[2:]} == {result.detail["bar"]}
    assert session.ledger.generated_tokens == 3 * whole + len("aa\n\nzzzz"), (
        "zzzz is below swer, a newline and zzz are not"
    )
    assert session.ledger.candidates == 3


async def test_online_only_samples_above_the_bar_of_the_warm_up_vote():
    script = {"Q:": ["aa\n\nAnswer: 1", "zz\n\nAnswer: 2", "mm\n\nAnswer: 3", "  \n\nAnswer: 4"]}
    result, _ = await run(DeepConf(n=4, n_warmup=2, confidence="lowest_group", consensus=None), script)
    assert (result.answer, result.detail["voters"], result.detail["stopped"]) == ("4", [0, 3], 0)


async def test_online_a_vote_that_the_warm_up_settles_needs_no_more_samples():
    script = {"Q:": ["aa\n\nAnswer: 1", "aa\n\nAnswer: 1", "aa\n\nAnswer: 2", "aa\n\nAnswer: 2"]}
    result, policy = await run(STRATEGY, script)
    assert (result.answer, len(policy.requests), result.detail["samples"]) == ("1", 2, 2)


async def test_online_what_is_being_written_when_the_vote_is_settled_is_aborted():
    script = {"Q:": ["Answer: 1", "Answer: 2", "Answer: 1", "Answer: 1", "Answer: 1", "Answer: 1" + " " * 999]}
    strategy = replace(STRATEGY, n=6, consensus=0.75)
    result, _ = await run(strategy, script)
    assert (result.answer, result.detail["voters"]) == ("1", [0, 1, 2, 3])
    assert (result.detail["samples"], result.detail["stopped"], result.detail["aborted"]) == (6, 0, 2)


async def test_online_a_warm_up_of_all_samples_stops_none():
    result, _ = await run(replace(STRATEGY, n=2), ONLINE)
    assert (len(result.candidates), result.detail["stopped"]) == (2, 0)


async def test_online_samples_have_the_seeds_that_they_have_offline():
    async def seeds(strategy):
        _, policy = await run(strategy, ONLINE)
        return [request.seed for request in policy.requests]

    assert await seeds(STRATEGY) == await seeds(DeepConf(n=4))


async def test_online_a_sample_that_a_cap_cut_was_not_stopped():
    result, _ = await run(STRATEGY, ONLINE, max_tokens=4)
    assert {candidate.trajectory.status for candidate in result.candidates} == {Status.TRUNCATED}
    assert result.detail["stopped"] == 0


def test_only_online_it_stops_what_is_being_written():
    assert STRATEGY.needs_tokens and not DeepConf().needs_tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "deepconf: n must be >= 1, got 0"),
        ({"keep": 0.0}, "deepconf: keep must be above 0 and at most 1, got 0.0"),
        ({"keep": 1.5}, "deepconf: keep must be above 0 and at most 1, got 1.5"),
        ({"group_tokens": 0}, "deepconf: group_tokens must be >= 1, got 0"),
        ({"consensus": 0.5}, "deepconf: consensus must be above 0.5 and at most 1 (or null for never), got 0.5"),
        (
            {"n_warmup": 2, "confidence": "lowest_group"},
            "deepconf: consensus needs two votes of the warm-up, got one: keep 0.5 of 2 samples",
        ),
        ({"n_warmup": 0}, "deepconf: n_warmup must be between 1 and n=16 (or null for offline), got 0"),
        ({"n_warmup": 4}, "deepconf: n_warmup needs confidence: lowest_group, got mean"),
        ({"n_warmup": 17}, "deepconf: n_warmup must be between 1 and n=16 (or null for offline), got 17"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepConf(**fields)
