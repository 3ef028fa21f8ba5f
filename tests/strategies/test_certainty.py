import math

import pytest

from orchestrator.core.confidence import StepConfidence
from orchestrator.core.nouns import Step
from strategies.certainty import Certainty, certainty, mean_logprob, mean_probability, token_confidences


def step(*tokens: float, entropy: float = 0.0, self_certainty: float = 0.0) -> Step:
    return Step(token_ids=(1,) * len(tokens), text="", confidence=StepConfidence(tokens, entropy, self_certainty))


FORCED = Step(token_ids=(1,) * 7, text="", forced=True)


def test_means_are_over_sampled_tokens_and_not_over_steps():
    steps = [step(2.0, 4.0, 6.0, entropy=1.0, self_certainty=8.0), FORCED, step(8.0, entropy=5.0, self_certainty=4.0)]
    assert certainty(steps, Certainty.confidence) == pytest.approx(5.0)
    assert certainty(steps, Certainty.entropy) == pytest.approx(math.exp(-2.0))
    assert certainty(steps, Certainty.self_certainty) == pytest.approx(7.0)
    assert token_confidences(steps) == [2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("by", Certainty)
def test_where_nothing_is_known_there_is_no_certainty(by):
    assert certainty([FORCED], by) is None and certainty([], by) is None


def test_the_mean_probability_is_geometric_and_over_sampled_tokens():
    steps = [Step(token_ids=(1, 1, 1), text="", logprob=3 * math.log(0.5)), FORCED]
    steps.append(Step(token_ids=(1,), text="", logprob=math.log(0.25)))
    assert mean_probability(steps) == pytest.approx((0.5**3 * 0.25) ** (1 / 4))
    assert mean_probability([FORCED]) is None


def test_tokens_that_were_not_sampled_do_not_dilute_the_mean_log_probability():
    assert mean_logprob([Step(token_ids=(1, 1), text="", logprob=-3.0), FORCED]) == pytest.approx(-1.5)
    assert mean_logprob([FORCED]) is None and mean_logprob([]) is None
