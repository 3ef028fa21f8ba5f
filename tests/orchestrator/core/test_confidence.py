import math

import pytest

from orchestrator.core.confidence import (
    ConfidenceFloor,
    StepConfidence,
    TokenConfidence,
    group_means,
    step_confidence,
    token_confidence,
)
from orchestrator.core.protocols import Generation

HALVES = [math.log(0.5), math.log(0.25), math.log(0.25)]


def test_confidence_is_the_negated_mean_of_the_log_probabilities():
    assert token_confidence([-1.0, -2.0, -6.0]).confidence == pytest.approx(3.0)


def test_entropy_and_self_certainty_are_of_probabilities_that_sum_to_one():
    whole, part = token_confidence(HALVES), token_confidence([logprob - 1.0 for logprob in HALVES])
    assert (whole.entropy, part.entropy) == pytest.approx((1.5 * math.log(2),) * 2)
    divergence = sum(math.log(1 / 3 / p) / 3 for p in (0.5, 0.25, 0.25))  # of the uniform distribution from this one
    assert whole.self_certainty == pytest.approx(divergence) and part.self_certainty == pytest.approx(divergence)
    assert part.confidence == pytest.approx(whole.confidence + 1.0)


def test_where_all_tokens_are_equally_likely_nothing_is_certain():
    assert token_confidence([math.log(0.25)] * 4) == pytest.approx((math.log(4), math.log(4), 0.0), abs=1e-12)


def test_an_impossible_token_is_as_unlikely_as_servers_write_it():
    told = token_confidence([0.0, -math.inf])
    assert (told.confidence, told.entropy) == (9999.0 / 2, 0.0)


def test_a_step_has_the_confidence_of_each_token_and_the_means_of_the_rest():
    step = step_confidence([TokenConfidence(1.0, 0.2, 3.0), TokenConfidence(2.0, 0.4, 5.0)])
    assert step == StepConfidence((1.0, 2.0), pytest.approx(0.3), 4.0)
    assert step is not None and step.mean == 1.5
    assert step_confidence([]) is None


@pytest.mark.parametrize(
    ("numbers", "size", "means"),
    [([1, 3, 5, 7], 2, [2, 4, 6]), ([1, 3], 2, [2]), ([1, 3], 3, [2]), ([], 3, []), ([4, 5], 1, [4, 5])],
)
def test_groups_slide_by_one_and_fewer_numbers_are_one_group(numbers, size, means):
    assert group_means(numbers, size) == means


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_floor_without_likeliest_tokens_is_refused(logprobs):
    floor = ConfidenceFloor(group_tokens=1, least=1.0)
    with pytest.raises(ValueError, match=f"a floor, and words, need logprobs >= 1, got {logprobs}"):
        Generation(prefix_ids=(), max_tokens=1, seed=0, temperature=1.0, top_p=1.0, logprobs=logprobs, floor=floor)
