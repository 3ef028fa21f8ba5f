import math
import re

import pytest

from orchestrator.core.nouns import Selection, Step
from strategies.deepconf import DeepConf, bar_of, lowest_group, mean_confidence
from tests.fakes import ids
from tests.strategies.searching import run


def step(probability: float | None, tokens: int = 1) -> Step:
    """Of tokens that have this probability each."""
    logprob = None if probability is None else tokens * math.log(probability)
    return Step(token_ids=(1,) * tokens, text="", logprob=logprob)


def test_the_mean_is_over_tokens_and_not_over_steps():
    assert mean_confidence([step(0.5, 3), step(0.25)]) == pytest.approx((0.5**3 * 0.25) ** (1 / 4))


def test_forced_tokens_say_nothing_of_the_policys_confidence():
    assert mean_confidence([step(0.5, 2), step(None, 7)]) == pytest.approx(0.5)
    assert mean_confidence([step(None, 7)]) is None
    assert mean_confidence([]) is None


@pytest.mark.parametrize(
    ("steps", "lowest"),
    [
        ([step(0.9, 2), step(0.1, 2), step(0.9, 2)], 0.1),  # a dip that the mean hides
        ([step(0.9, 1), step(0.1, 1), step(0.4, 1)], (0.1 * 0.4) ** 0.5),  # windows overlap
        ([step(0.9, 3), step(0.1, 1)], (0.9**3 * 0.1) ** (1 / 4)),  # one token alone is no group
        ([step(0.5, 1)], 0.5),  # fewer tokens than a group has
        ([], None),
        ([step(None, 2)], None),
    ],
)
def test_the_lowest_group_is_the_least_confident_run_of_steps_that_is_long_enough(steps, lowest):
    assert lowest_group(steps, 2) == (None if lowest is None else pytest.approx(lowest))


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


# A token's log-probability here is minus its code point: a space is likelier than a digit, and that than a letter.
SAMPLES = {"Q:": ["Answer: z", "Answer: z", "Answer: z", "Answer: 1    1    1"]}


async def test_a_confident_sample_outweighs_a_majority_of_unsure_ones():
    result, policy = await run(DeepConf(n=4, keep=0.25), SAMPLES)
    assert (result.answer, result.selection) == ("1    1    1", Selection.WEIGHTED)
    assert result.score == max(candidate.aggregate_score for candidate in result.candidates)
    assert result.detail == {"voters": [3], "bar": result.score, "stopped": 0}
    assert all(request.logprobs for request in policy.requests)


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
    # near 0 for each of the other samples, and far below a third of the confident one's
    result, _ = await run(DeepConf(n=4, keep=1.0), SAMPLES)
    assert (result.answer, result.detail["voters"]) == ("1    1    1", [0, 1, 2, 3])


async def test_a_sample_without_an_answer_has_no_vote_and_takes_no_place_of_one():
    result, _ = await run(DeepConf(n=4), {"Q:": ["   ", "Answer: 2", "Answer: 3", "   "]})
    assert (result.answer, result.detail["voters"]) == ("2", [1])


async def test_without_any_answer_there_is_a_candidate_all_the_same():
    result, _ = await run(DeepConf(n=2), {"Q:": ["zz", "  "]})
    assert (result.answer, result.chosen, result.detail["voters"]) == (None, 1, [])


ONLINE = {
    "Q:": ["aa\n\nAnswer: 1", "aa\n\nAnswer: 1", "aa\n\nzzzz\n\nAnswer: 7", "aa\n\nAnswer: 1"],
    "aa\n\n": ["Answer: 1", "Answer: 1", "zzzz\n\nAnswer: 7", "Answer: 1"],
    "Answ": ["er: 1"],
    "er: ": ["1"],
}
STRATEGY = DeepConf(n=4, n_warmup=2, keep=1.0, group_tokens=4, confidence="lowest_group")


async def test_online_a_sample_that_falls_below_the_warm_up_is_written_no_further():
    result, policy = await run(STRATEGY, ONLINE)
    assert [candidate.trajectory.text for candidate in result.candidates] == ["aa\n\nAnswer: 1"] * 3
    assert (result.answer, result.detail["stopped"]) == ("1", 1)
    assert result.detail["bar"] == result.candidates[0].aggregate_score
    assert {request.max_tokens for request in policy.requests} == {4}
    assert sum(request.prefix_ids == ids("Q:aa\n\nAnsw") for request in policy.requests) == 3
    assert not any(request.prefix_ids == ids("Q:aa\n\nzzzz") for request in policy.requests)


async def test_online_only_samples_above_the_bar_of_the_warm_up_vote():
    script = {"Q:": ["aa\n\nAnswer: 1", "zz\n\nAnswer: 2", "mm\n\nAnswer: 3", "  \n\nAnswer: 4"]}
    result, _ = await run(DeepConf(n=4, n_warmup=2, confidence="lowest_group"), script)
    assert (result.answer, result.detail["voters"], result.detail["stopped"]) == ("4", [0, 3], 0)


async def test_online_samples_begin_with_the_seeds_that_they_have_offline():
    async def seeds(strategy):
        _, policy = await run(strategy, ONLINE)
        return {request.seed for request in policy.requests if request.prefix_ids == ids("Q:")}

    assert await seeds(STRATEGY) == await seeds(DeepConf(n=4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "deepconf: n must be >= 1, got 0"),
        ({"keep": 0.0}, "deepconf: keep must be above 0 and at most 1, got 0.0"),
        ({"keep": 1.5}, "deepconf: keep must be above 0 and at most 1, got 1.5"),
        ({"group_tokens": 0}, "deepconf: group_tokens must be >= 1, got 0"),
        ({"n_warmup": 0}, "deepconf: n_warmup must be between 1 and n=16 (or null for offline), got 0"),
        ({"n_warmup": 4}, "deepconf: n_warmup needs confidence: lowest_group, got mean"),
        ({"n_warmup": 17}, "deepconf: n_warmup must be between 1 and n=16 (or null for offline), got 17"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepConf(**fields)
