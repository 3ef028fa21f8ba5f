import json
from collections import Counter

import pytest

from orchestrator.core.nouns import Selection
from strategies.tournament import Tournament, winner
from tests.fakes import open_session, problem
from tests.strategies.searching import Judging, naming

VOTES = {"Q:": ["Answer: 1", "Answer: 2", "Answer: 2", "no idea", "Answer: 3"]}


async def play(strategy, judge, script=VOTES, **session_options):
    policy = Judging(script, judge)
    async with open_session(policy, **session_options) as session:
        result = await strategy.search(problem(), session)
    return result, policy, session


@pytest.mark.parametrize("order_seed", range(5))
async def test_a_solution_that_wins_all_its_pairs_is_chosen_whoever_meets_whom(order_seed):
    result, _, _ = await play(Tournament(n=5, order_seed=order_seed), naming("Answer: 3"))
    assert (result.answer, result.chosen, result.selection) == ("3", 4, Selection.COMPARISON)


async def test_each_pair_is_asked_in_both_orders_and_stands_in_the_detail():
    result, policy, session = await play(Tournament(n=5), naming("Answer: 3"))
    asked = [tuple(shown) for shown in policy.shown]
    assert Counter(asked) == Counter((second, first) for first, second in asked)
    comparisons = result.detail["comparisons"]
    assert len(asked) == 2 * len(comparisons)
    assert all(one["winner"] in one["pair"] for one in comparisons)
    assert [one["round"] for one in comparisons] == sorted(one["round"] for one in comparisons)
    assert json.loads(json.dumps(comparisons))[-1]["winner"] == 4
    assert len(result.candidates) == 5  # comparisons are none
    assert session.ledger.candidates == 5 + len(asked)


@pytest.mark.parametrize("judge", [lambda shown: "Judgment: [0]", lambda shown: "Judgment: [1]", lambda shown: "Both."])
@pytest.mark.parametrize("order_seed", range(5))
async def test_a_preference_for_a_place_cancels_and_the_majority_decides(judge, order_seed):
    result, _, _ = await play(Tournament(n=5, order_seed=order_seed), judge)
    assert (result.answer, result.chosen, result.selection) == ("2", 1, Selection.MAJORITY)
    assert result.detail["comparisons"]


@pytest.mark.parametrize(
    ("named", "index"),
    [
        ((3, 3), 3),  # both orders name it
        ((3, 1), 1),  # they differ: its answer has more votes
        ((3, None), 1),  # one of them alone could be for its place
        ((None, None), 1),
    ],
)
def test_a_pair_is_won_where_both_orders_name_one(named, index):
    assert winner((1, 3), named, [0, 1, 1, 2]) == winner((3, 1), named, [0, 1, 1, 2]) == index


def test_without_a_preference_and_with_equal_votes_the_earlier_answer_goes_on():
    assert winner((2, 0), (None, None), [0, 1, 1, 0]) == 0
    assert winner((2, 3), (None, None), [0, 1, 1, 0]) == 3  # the answer that was first, not the candidate
    assert winner((2, 1), (None, None), [0, 1, 1, 0]) == 1  # equal answers


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
async def test_every_sample_but_one_is_beaten_once(n):
    result, policy, _ = await play(
        Tournament(n=n), lambda shown: "Judgment: [0]", {"Q:": [f"Answer: {i}" for i in range(n)]}
    )
    comparisons = result.detail["comparisons"]
    beaten = [index for one in comparisons for index in one["pair"] if index != one["winner"]]
    assert sorted(beaten) == list(range(1, n))
    assert len(policy.shown) == 2 * (n - 1)
    assert max((one["round"] for one in comparisons), default=0) == (n - 1).bit_length()


@pytest.mark.parametrize("script", [["Answer: 1", "Answer: 1.0", "no idea"], ["no idea"], ["Answer: 1", "no idea"]])
async def test_where_all_answers_are_equal_nothing_is_asked(script):
    result, policy, _ = await play(Tournament(n=3), naming("Answer: 1"), {"Q:": script})
    assert (result.chosen, result.selection, len(policy.requests)) == (0, Selection.MAJORITY, 3)
    assert result.detail == {"comparisons": []}


def test_bad_fields_are_errors_that_name_the_field_and_the_value():
    with pytest.raises(ValueError, match="tournament: n must be >= 1, got 0"):
        Tournament(n=0)
