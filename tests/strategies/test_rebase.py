import pytest

from strategies.rebase import Rebase, allot
from tests.strategies.searching import belief, run

# a is believed in, b is not
SCRIPT = {"Q:": ["a\n\n-", "b\n\n-"], "a\n\n": ["Answer: 1"], "b\n\n": ["Answer: 2"]}


def answers(result):
    return [candidate.trajectory.answer for candidate in result.candidates]


@pytest.mark.parametrize(
    ("count", "weights", "shares"),
    [
        (4, [1.0, 0.0], [4, 0]),
        (4, [0.5, 0.5], [2, 2]),
        (3, [0.5, 0.5], [2, 1]),
        (5, [0.4, 0.33, 0.27], [2, 2, 1]),
        (3, [1 / 3, 1 / 3, 1 / 3], [1, 1, 1]),
        (2, [0.3, 0.3, 0.4], [1, 0, 1]),
    ],
)
def test_shares_are_whole_and_add_up(count, weights, shares):
    assert allot(count, weights) == shares


async def test_nodes_get_children_in_proportion_to_the_softmax_of_their_scores():
    judge = belief({"a\n\n": 0.9, "b\n\n": 0.35069, "1": 0.5, "2": 0.5})  # 3 : 1 at a temperature of 0.5
    script = SCRIPT | {"Q:": ["a\n\n-", "b\n\n-", "b\n\n-", "b\n\n-"]}
    result, policy = await run(Rebase(n=4, balance_temperature=0.5), script, judge)
    assert sorted(answers(result)) == ["1", "1", "2", "2"]  # 2, 2/3, 2/3 and 2/3 of the four
    assert [candidate.trajectory.path[0] for candidate in result.candidates] == [0, 0, 1, 2]
    assert len(policy.requests) == 4 + 4


@pytest.mark.parametrize(("temperature", "expected"), [(0.01, ["1"] * 4), (100.0, ["1", "1", "2", "2"])])
async def test_a_low_temperature_expands_the_best_only_and_a_high_one_all_alike(temperature, expected):
    judge = belief({"a\n\n": 0.9, "b\n\n": 0.3, "1": 0.5, "2": 0.5})
    result, _ = await run(Rebase(n=4, balance_temperature=temperature), SCRIPT, judge)
    assert sorted(answers(result)) == expected


async def test_a_finished_node_takes_its_share_of_the_leaves_with_it():
    script = {"Q:": ["Answer: 9", "a\n\n-", "a\n\n-", "Answer: 9"], "a\n\n": ["b\n\n-"], "b\n\n": ["Answer: 1"]}
    result, policy = await run(Rebase(n=4), script, lambda text: 0.5)
    assert sorted(answers(result)) == ["1", "1", "9", "9"]
    assert len(policy.requests) == 4 + 2 + 2
    assert result.detail == {"steps": 3}


async def test_what_runs_after_max_steps_is_written_to_its_end():
    script = {"Q:": ["a\n\n-"], "a\n\n": ["b\n\nAnswer: 1"]}
    result, policy = await run(Rebase(n=2, max_steps=1), script, lambda text: 0.5)
    assert [request.until_step for request in policy.requests] == [True] * 2 + [False] * 2
    assert answers(result) == ["1", "1"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "rebase: n must be >= 1, got 0"),
        ({"balance_temperature": 0}, "rebase: balance_temperature must be > 0, got 0"),
        ({"max_steps": 0}, "rebase: max_steps must be >= 1, got 0"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        Rebase(**fields)
