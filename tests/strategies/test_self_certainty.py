import pytest

from orchestrator.core.nouns import Selection
from strategies.certainty import TOP_K
from strategies.self_certainty import SelfCertainty, borda_weights
from tests.strategies.searching import run

# The policy is surer of a space than of a digit, and of that than of a letter.
SAMPLES = {"Q:": ["Answer: z", "Answer: z", "Answer: y", "Answer: 1    1    1", "no idea                 "]}


async def test_the_sample_of_the_highest_self_certainty_with_an_answer_is_chosen():
    result, policy = await run(SelfCertainty(n=5), SAMPLES)
    assert (result.answer, result.selection) == ("1    1    1", Selection.SCORE)
    assert max(candidate.aggregate_score for candidate in result.candidates) > result.score
    assert all(request.logprobs == TOP_K for request in policy.requests)


@pytest.mark.parametrize(("power", "answer"), [(0.0, "z"), (10.0, "1    1    1")])
async def test_a_high_power_outvotes_a_majority_with_one_sure_sample(power, answer):
    result, _ = await run(SelfCertainty(n=5, borda_power=power), SAMPLES)
    assert (result.answer, result.selection) == (answer, Selection.WEIGHTED)


def test_ranks_are_of_the_scored_and_equal_scores_share_one():
    assert borda_weights([1.0, None, 3.0, 1.0, 2.0], 2.0) == pytest.approx([0.25, 0.0, 1.0, 0.25, 0.5625])
    assert borda_weights([1.0, 2.0], 0.0) == [1.0, 1.0]
    assert borda_weights([None], 1.0) == [0.0]


@pytest.mark.parametrize(
    ("fields", "message"), [({"n": 0}, "n must be >= 1, got 0"), ({"borda_power": -1.0}, "between 0 and 100.*got -1.0")]
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        SelfCertainty(**fields)
