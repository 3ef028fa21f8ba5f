import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.frontier import (
    Cost,
    Costs,
    FrontierPoint,
    Outcome,
    compute_optimal,
    compute_optimal_frontier,
    frontier,
    strategy_points,
)
from experiments.analysis.intervals import Interval, Over

PRICES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), max_size=15)


def point(label: str, accuracy: float, *, tokens: float = 0, flops: float = 0, seconds: float = 0) -> FrontierPoint:
    return FrontierPoint(
        label=label,
        accuracy=Interval(value=accuracy, low=0, high=1, over=Over.BOTH),
        costs=Costs(tokens=tokens, flops=flops, seconds=seconds),
    )


def outcome(accuracy: float, tokens: float) -> Outcome:
    return Outcome(accuracy=accuracy, costs=Costs(tokens=tokens, flops=10 * tokens, seconds=1.0))


def test_each_currency_has_its_own_frontier() -> None:
    points = [
        point("greedy", 0.4, tokens=10, flops=10, seconds=1),
        point("best_of_n", 0.7, tokens=100, flops=400, seconds=2),
        point("beam_search", 0.7, tokens=50, flops=100, seconds=9),
        point("worse", 0.6, tokens=120, flops=900, seconds=10),
    ]
    assert [p.label for p in frontier(points, Cost.TOKENS)] == ["greedy", "beam_search"]
    assert [p.label for p in frontier(points, Cost.FLOPS)] == ["greedy", "beam_search"]
    assert [p.label for p in frontier(points, Cost.SECONDS)] == ["greedy", "best_of_n"]
    assert frontier([], Cost.TOKENS) == []


@settings(deadline=None, max_examples=50)
@given(PRICES)
def test_nothing_beats_a_point_of_the_frontier_for_its_price(prices: list[tuple[float, float]]) -> None:
    points = [point(str(i), accuracy, tokens=tokens) for i, (accuracy, tokens) in enumerate(prices)]
    found = frontier(points, Cost.TOKENS)
    for kept in found:
        assert not any(p.accuracy.value > kept.accuracy.value and p.costs.tokens <= kept.costs.tokens for p in points)
    for left in points:
        assert any(k.accuracy.value >= left.accuracy.value and k.costs.tokens <= left.costs.tokens for k in found)


def test_a_point_is_the_mean_of_its_problems() -> None:
    (found,) = strategy_points({"x": {"a": outcome(1.0, 10), "b": outcome(0.0, 30)}})
    assert (found.label, found.accuracy.value, found.accuracy.over) == ("x", 0.5, Over.BOTH)
    assert found.costs == Costs(tokens=20, flops=200, seconds=1.0)
    with pytest.raises(ValueError, match="numbers >= 0"):
        Costs(tokens=-1, flops=0, seconds=0)


EASY, HARD = [f"e{i}" for i in range(4)], [f"h{i}" for i in range(4)]
BINS = dict.fromkeys(EASY, 1) | dict.fromkeys(HARD, 5)
OUTCOMES = {
    "greedy": {p: outcome(1.0, 10) for p in EASY} | {p: outcome(0.0, 10) for p in HARD},
    "best_of_n": {p: outcome(1.0, 100) for p in EASY} | {p: outcome(0.5, 100) for p in HARD},
    "mcts": {p: outcome(0.0, 1000) for p in EASY} | {p: outcome(1.0, 1000) for p in HARD},
}


def test_each_bin_gets_its_strategy_and_what_easy_problems_save_goes_to_hard_ones() -> None:
    small, middle, large = (compute_optimal(OUTCOMES, BINS, budget=b, cost=Cost.TOKENS) for b in (10, 55, 505))
    assert small is not None and middle is not None and large is not None
    assert small.chosen == {1: "greedy", 5: "greedy"} and small.accuracy.value == 0.5
    assert middle.chosen == {1: "greedy", 5: "best_of_n"} and middle.accuracy.value == 0.75
    assert large.chosen == {1: "greedy", 5: "mcts"} and large.accuracy.value == 1.0
    assert (middle.costs.tokens, large.costs.tokens) == (55, 505) and middle.accuracy.over is Over.BOTH
    assert compute_optimal(OUTCOMES, BINS, budget=9, cost=Cost.TOKENS) is None
    in_flops = compute_optimal(OUTCOMES, BINS, budget=550, cost=Cost.FLOPS)
    assert in_flops is not None and in_flops.chosen == middle.chosen


def test_the_frontier_by_difficulty_has_the_budgets_of_the_strategies() -> None:
    found = compute_optimal_frontier(OUTCOMES, BINS, Cost.TOKENS)
    assert [allocation.budget for allocation in found] == [10, 100, 1000]
    assert [allocation.accuracy.value for allocation in found] == [0.5, 0.75, 1.0]
    plain = {point.costs.tokens: point.accuracy.value for point in strategy_points(OUTCOMES)}
    assert all(allocation.accuracy.value >= plain[allocation.budget] for allocation in found)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=3, max_size=3), min_size=2, max_size=4),
    st.integers(1, 9),
)
def test_no_other_choice_is_better_within_the_budget(table: list[list[tuple[int, int]]], budget: int) -> None:
    """`table`: label -> bin -> (accuracy in quarters, tokens), the same for both problems of a bin."""
    bins = {f"{number}{half}": number for number in range(3) for half in "ab"}
    outcomes = {
        str(label): {problem: outcome(row[number][0] / 4, row[number][1]) for problem, number in bins.items()}
        for label, row in enumerate(table)
    }
    every = [
        (sum(table[label][number][0] for number, label in enumerate(labels)) / 12, cost)
        for labels in itertools.product(range(len(table)), repeat=3)
        if (cost := sum(table[label][number][1] for number, label in enumerate(labels)) / 3) <= budget
    ]
    found = compute_optimal(outcomes, bins, budget=budget, cost=Cost.TOKENS)
    if found is None:
        assert not every
    else:
        best = max(accuracy for accuracy, _ in every)
        assert found.accuracy.value == pytest.approx(best)
        assert found.costs.tokens == pytest.approx(min(cost for accuracy, cost in every if accuracy == best))


def test_no_problem_is_measured_by_a_choice_that_it_had_a_part_in() -> None:
    """Each label is right on one half only: chosen and measured on the same problems, either would look good."""
    luck = {
        "a": {p: outcome(float(i % 2 == 0), 1) for i, p in enumerate(EASY)},
        "b": {p: outcome(float(i % 2 == 1), 1) for i, p in enumerate(EASY)},
    }
    found = compute_optimal(luck, dict.fromkeys(EASY, 1), budget=1, cost=Cost.TOKENS)
    assert found is not None and found.accuracy.value == 0.0


def test_strategies_must_have_run_on_the_same_problems_in_bins_of_two() -> None:
    with pytest.raises(ValueError, match=r"at least 2 problems in each bin .*, got 1 in bin 3"):
        compute_optimal({"a": {"x": outcome(1.0, 1)}}, {"x": 3}, budget=1, cost=Cost.TOKENS)
    with pytest.raises(ValueError, match="got 8 problems, 0 of them in no bin, and not all of them for mcts"):
        lacking = OUTCOMES | {"mcts": {p: outcome(1.0, 1) for p in EASY}}
        compute_optimal(lacking, BINS, budget=1, cost=Cost.TOKENS)
    with pytest.raises(ValueError, match="8 of them in no bin"):
        compute_optimal(OUTCOMES, {}, budget=1, cost=Cost.TOKENS)
