import random

import pytest

from orchestrator.core.nouns import Selection
from strategies.genselect import GenSelect
from tests.fakes import open_session, problem
from tests.strategies.searching import Judging, naming

VOTES = {"Q:": ["Answer: 1", "Answer: 2", "Answer: 2", "no idea"]}


async def select(strategy, judge, script=VOTES, **session_options):
    policy = Judging(script, judge)
    async with open_session(policy, **session_options) as session:
        result = await strategy.search(problem(), session)
    return result, policy, session


async def test_the_solution_that_the_judgments_name_beats_the_majority():
    result, policy, session = await select(GenSelect(n=4, judgments=3), naming("Answer: 1"))
    assert (result.answer, result.chosen, result.selection) == ("1", 0, Selection.COMPARISON)
    assert [judgment["pick"] for judgment in result.detail["judgments"]] == [0, 0, 0]
    assert len(result.candidates) == 4  # judgments are none
    assert len(policy.requests) == session.ledger.candidates == 4 + 3


async def test_where_no_judgment_can_be_read_the_majority_decides():
    result, _, _ = await select(GenSelect(n=4), lambda shown: "All are fine.")
    assert (result.answer, result.chosen, result.selection) == ("2", 1, Selection.MAJORITY)
    assert [judgment["pick"] for judgment in result.detail["judgments"]] == [None] * 4


async def test_judgments_show_solutions_with_an_answer_in_orders_of_their_own():
    _, policy, _ = await select(GenSelect(n=4, judgments=8), naming("Answer: 1"))
    assert {tuple(sorted(shown)) for shown in policy.shown} == {("Answer: 1", "Answer: 2", "Answer: 2")}
    assert {shown.index("Answer: 1") for shown in policy.shown} == {0, 1, 2}


async def test_the_orders_depend_on_the_seed_and_the_problem_alone():
    first, again, other = [
        (await select(GenSelect(n=4, order_seed=seed), naming("Answer: 1")))[0].detail for seed in (0, 0, 1)
    ]
    assert first == again != other


def test_a_judgment_shows_no_more_than_so_many():
    line_ups = GenSelect(judgments=20, shown=3).line_ups([0, 1, None, 2, 3, 3], random.Random(0))
    assert len(line_ups) == 20
    assert all(len(set(line_up)) == 3 for line_up in line_ups)
    assert {index for line_up in line_ups for index in line_up} == {0, 1, 3, 4, 5}


@pytest.mark.parametrize("script", [["Answer: 1", "Answer: 1.0", "no idea"], ["no idea"], ["Answer: 1", "no idea"]])
async def test_where_all_answers_are_equal_nothing_is_asked(script):
    result, policy, _ = await select(GenSelect(n=3), naming("Answer: 1"), {"Q:": script})
    assert (result.chosen, result.selection, len(policy.requests)) == (0, Selection.MAJORITY, 3)
    assert result.detail == {"judgments": []}


@pytest.mark.parametrize("field", ["n", "judgments", "shown"])
def test_bad_fields_are_errors_that_name_the_field_and_the_value(field):
    with pytest.raises(ValueError, match=f"genselect: {field} must be >= [12], got 0"):
        GenSelect(**{field: 0})
