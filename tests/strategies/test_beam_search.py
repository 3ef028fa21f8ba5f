import pytest

from strategies.beam_search import BeamSearch
from tests.strategies.searching import belief, run

TRAP = {"Q:": ["a\n\n-", "b\n\n-"], "a\n\n": ["c\n\n-"], "b\n\n": ["d\n\n-"]}
TRAP |= {"c\n\n": ["Answer: 1"], "d\n\n": ["Answer: 2"]}
TRAP_BELIEF = {"a\n\n": 0.9, "b\n\n": 0.5, "c\n\n": 0.2, "d\n\n": 0.8, "Answer: 1": 0.1, "Answer: 2": 0.9}


@pytest.mark.parametrize(("lookahead", "answer"), [(0, "1"), (1, "2"), (2, "2"), (9, "2")])
async def test_lookahead_values_a_child_by_where_it_leads(lookahead, answer):
    result, _ = await run(BeamSearch(n=2, beam_width=1, lookahead=lookahead), TRAP, belief(TRAP_BELIEF))
    assert result.answer == answer


async def test_lookahead_simulates_once_per_running_child_at_temperature_zero():
    _, policy = await run(BeamSearch(n=2, beam_width=1, lookahead=1), TRAP, belief(TRAP_BELIEF))
    # children of Q:, their simulations, children of b, their simulations, children of d (finished: not simulated)
    assert [request.temperature == 0.0 for request in policy.requests] == [False, False, True, True] * 2 + [False] * 2


async def test_a_simulation_is_no_candidate():
    result, _ = await run(BeamSearch(n=2, beam_width=1, lookahead=9), TRAP, belief(TRAP_BELIEF))
    assert [candidate.trajectory.text for candidate in result.candidates] == ["b\n\nd\n\nAnswer: 2"] * 2


async def test_lookahead_aggregates_over_the_simulated_trajectory():
    # a leads to min(0.9, 0.2), b to min(0.5, 0.8)
    strategy = BeamSearch(n=2, beam_width=1, lookahead=1, aggregation="min")
    result, _ = await run(strategy, TRAP, belief(TRAP_BELIEF))
    assert result.answer == "2"


TWINS = {"Q:": ["a\n\n-", "a\n\n-", "b\n\n-", "a\n\n-"], "a\n\n": ["Answer: 1"], "b\n\n": ["Answer: 2"]}
TWINS_BELIEF = {"a\n\n": 0.9, "b\n\n": 0.5, "Answer: 1": 0.1, "Answer: 2": 0.9}


@pytest.mark.parametrize(("deduplicate", "answers"), [(False, ["1"] * 4), (True, ["1", "2"])])
async def test_equal_children_take_one_place_when_deduplicated(deduplicate, answers):
    strategy = BeamSearch(n=4, beam_width=2, deduplicate=deduplicate)
    result, _ = await run(strategy, TWINS, belief(TWINS_BELIEF))
    assert [candidate.trajectory.answer for candidate in result.candidates] == answers


async def test_of_equal_children_the_first_is_kept():
    result, _ = await run(BeamSearch(n=4, beam_width=2, deduplicate=True), TWINS, belief(TWINS_BELIEF))
    assert [candidate.trajectory.path[0] for candidate in result.candidates] == [0, 2]


@pytest.mark.parametrize(("expansion", "requests"), [(None, 4 + 4), (1, 4 + 2), (3, 4 + 6)])
async def test_expansion_is_the_number_of_children_of_each_kept_beam(expansion, requests):
    result, policy = await run(BeamSearch(n=4, beam_width=2, expansion=expansion), TWINS, belief(TWINS_BELIEF))
    assert (len(policy.requests), len(result.candidates)) == (requests, requests - 4)


def test_with_an_expansion_n_need_not_be_a_multiple_of_beam_width():
    assert BeamSearch(n=6, beam_width=4, expansion=2).expansion == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expansion": 0}, "beam_search: expansion must be >= 1, got 0"),
        ({"lookahead": -1}, "beam_search: lookahead must be >= 0, got -1"),
        ({"max_steps": 0}, "beam_search: max_steps must be >= 1, got 0"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        BeamSearch(**fields)
