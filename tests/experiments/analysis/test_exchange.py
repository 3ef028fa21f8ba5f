import math

import pytest

from experiments.analysis.exchange import exchange, inference_multiple

ACCURACIES = {1: 0.25, 2: 0.5, 4: 0.75, 8: 1.0}
PROBLEMS = ["a", "b", "c", "d"]


def small() -> dict[int, dict[str, float]]:
    """Right on the first problems: 1 of 4 with one sample, all with eight."""
    return {k: {p: float(i < 4 * rate) for i, p in enumerate(PROBLEMS)} for k, rate in ACCURACIES.items()}


FLOPS = {k: 100.0 * k for k in ACCURACIES}
LARGE = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}


@pytest.mark.parametrize(("ratio", "multiple"), [(0.16, 257.75), (0.79, 14 + 39 / 0.79), (22, 14 + 39 / 22)])
def test_a_model_14_times_larger_costs_what_the_paper_says(ratio: float, multiple: float) -> None:
    assert inference_multiple(14, ratio) == pytest.approx(multiple)  # M = 14 and R as in section 7


def test_equal_totals_are_equal() -> None:
    parameters, pretrained, inferred, size_ratio = 3e9, 2e12, 5e11, 7.0
    large = 6 * size_ratio * parameters * pretrained + 2 * size_ratio * parameters * inferred
    multiple = inference_multiple(size_ratio, inferred / pretrained)
    assert 6 * parameters * pretrained + multiple * 2 * parameters * inferred == pytest.approx(large)
    assert inference_multiple(1, 0.5) == 1
    assert inference_multiple(8, math.inf) == 8


def test_with_both_models_there_only_inference_is_matched() -> None:
    found = exchange(small(), FLOPS, LARGE, 400.0, size_ratio=4)
    assert (found.k, found.spent, found.budget, found.saturated) == (4, 400.0, 400.0, False)
    assert (found.comparison.ours.value, found.comparison.theirs.value) == (0.75, 0.5)
    assert found.comparison.difference.value == 0.25


def test_saved_pretraining_buys_samples_and_unmeasured_ones_are_not_made_up() -> None:
    found = exchange(small(), FLOPS, LARGE, 400.0, size_ratio=4, inference_to_pretraining=2.25)
    assert found.budget == pytest.approx(inference_multiple(4, 2.25) * 100) == pytest.approx(800)
    assert (found.k, found.saturated) == (8, False)
    plenty = exchange(small(), FLOPS, LARGE, 400.0, size_ratio=4, inference_to_pretraining=0.1)
    assert (plenty.k, plenty.saturated) == (8, True)
    between = exchange(small(), FLOPS, LARGE, 390.0, size_ratio=4)
    assert between.k == 2


def test_an_exchange_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="within 40 FLOPs per problem, got 100 at k = 1"):
        exchange(small(), FLOPS, LARGE, 40.0, size_ratio=4)
    with pytest.raises(ValueError, match="FLOPs for each measured k"):
        exchange(small(), {1: 100.0}, LARGE, 400.0, size_ratio=4)
    with pytest.raises(ValueError, match=r"got 0\.5 and inf"):
        inference_multiple(0.5, math.inf)
    with pytest.raises(ValueError, match="got 2 and 0"):
        inference_multiple(2, 0)
