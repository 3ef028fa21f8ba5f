import pytest

from orchestrator.core.nouns import Status
from strategies.mcts import MCTS
from tests.fakes import text_of
from tests.strategies.searching import belief, run

TREE = {"Q:": ["a\n\n-", "b\n\n-"], "a\n\n": ["c\n\n-", "d\n\n-"], "b\n\n": ["Answer: 1", "Answer: 2"]}
TREE |= {"c\n\n": ["Answer: 3"], "d\n\n": ["Answer: 4"]}
# a looks best, but everything under it is bad
JUDGE = belief({"a\n\n": 0.9, "b\n\n": 0.6, "c\n\n": 0.1, "d\n\n": 0.2, "1": 0.7, "2": 0.8, "3": 0.1, "4": 0.1})


def expanded(policy, width=2):
    """The texts that were continued, one per expansion."""
    return [text_of(request.prefix_ids) for request in policy.requests[::width]]


async def test_low_values_are_backed_up_so_that_the_search_leaves_a_bad_branch():
    result, policy = await run(MCTS(simulations=3, expansion=2, c_puct=0.0), TREE, JUDGE)
    # Q(a) falls from 0.9 to (0.9 + 0.1 + 0.2) / 3 = 0.4, below Q(b) = 0.6
    assert expanded(policy) == ["Q:", "Q:a\n\n", "Q:b\n\n"]
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["1", "2"]
    assert (result.answer, result.score) == ("2", 0.8)


@pytest.mark.parametrize(("c_puct", "third"), [(0.0, "Q:a\n\nc\n\n"), (1.0, "Q:a\n\nc\n\n"), (2.0, "Q:b\n\n")])
async def test_exploration_sends_the_search_to_what_was_visited_less(c_puct, third):
    judge = belief({"a\n\n": 0.9, "b\n\n": 0.6, "c\n\n": 0.9, "d\n\n": 0.9, "1": 0.7, "2": 0.8, "3": 0.1, "4": 0.1})
    _, policy = await run(MCTS(simulations=3, expansion=2, c_puct=c_puct), TREE, judge)
    # after two expansions a is worth 0.9 + c/2 x sqrt(4) / (1 + 3), b 0.6 + c/2 x sqrt(4) / (1 + 1)
    assert expanded(policy) == ["Q:", "Q:a\n\n", third]


async def test_a_finished_leaf_is_visited_again_for_free():
    script = {"Q:": ["Answer: 1", "b\n\n-"], "b\n\n": ["Answer: 2"]}
    judge = belief({"1": 0.9, "b\n\n": 0.5, "2": 0.3})
    result, policy = await run(MCTS(simulations=20, expansion=2, c_puct=0.0), script, judge)
    assert (len(policy.requests), result.detail["simulations"]) == (2, 20)
    result, policy = await run(MCTS(simulations=20, expansion=2, c_puct=1.0), script, judge)
    assert expanded(policy) == ["Q:", "Q:b\n\n"]
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["1", "2", "2"]


async def test_the_search_ends_when_nothing_is_left_to_expand():
    result, policy = await run(MCTS(simulations=1000, expansion=2), TREE, JUDGE)
    assert len(policy.requests) == 2 * 5  # the five inner nodes
    assert result.detail["simulations"] < 1000
    assert sorted(c.trajectory.answer for c in result.candidates) == ["1", "2", "3", "3", "4", "4"]


async def test_the_best_leaf_is_written_to_its_end_when_nothing_finished():
    result, policy = await run(MCTS(simulations=2, expansion=2), TREE, JUDGE)
    # leaves are b (0.6), c (0.1) and d (0.2)
    assert text_of(policy.requests[-1].prefix_ids) == "Q:b\n\n"
    assert not policy.requests[-1].until_step
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["1"]


async def test_a_leaf_at_max_steps_is_written_to_its_end():
    script = TREE | {"a\n\n": ["c\n\nAnswer: 3", "d\n\nAnswer: 4"]}
    result, policy = await run(MCTS(simulations=2, expansion=2, max_steps=1), script, JUDGE)
    assert [request.until_step for request in policy.requests] == [True] * 2 + [False] * 2
    texts = [candidate.trajectory.text for candidate in result.candidates]
    assert texts == ["a\n\nc\n\nAnswer: 3", "a\n\nd\n\nAnswer: 4"]


async def test_the_search_stops_when_the_budget_is_used_up():
    result, _ = await run(MCTS(simulations=1000, expansion=2), TREE, lambda text: 0.5, budget=10)
    assert result.detail["simulations"] == 2
    # b was left: its rollout has no token to write
    assert [candidate.trajectory.text for candidate in result.candidates] == ["a\n\nc\n", "a\n\nd\n", "b\n\n"]
    assert {candidate.trajectory.status for candidate in result.candidates} == {Status.TRUNCATED}


@pytest.mark.parametrize("field", ["simulations", "expansion", "max_steps"])
def test_bad_counts_are_errors_that_name_the_field_and_the_value(field):
    with pytest.raises(ValueError, match=f"mcts: {field} must be >= 1, got 0"):
        MCTS(**{field: 0})


def test_a_negative_c_puct_is_an_error():
    with pytest.raises(ValueError, match=r"mcts: c_puct must be >= 0, got -0.5"):
        MCTS(c_puct=-0.5)
