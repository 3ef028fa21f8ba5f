import numpy as np
import pytest

from verifiers.calibration import Bin, expected_calibration_error, fit_temperature, reliability


def test_bins_say_how_often_their_scores_are_right() -> None:
    low, high = reliability(np.array([0.05, 0.95, 0.91, 1.0]), np.array([False, True, False, True]))
    assert low == Bin(low=0.0, high=0.1, count=1, mean_score=pytest.approx(0.05), share_right=0.0)
    assert (high.count, high.share_right) == (3, pytest.approx(2 / 3))
    assert expected_calibration_error([low, high]) == pytest.approx(0.25 * 0.05 + 0.75 * abs(2.86 / 3 - 2 / 3))


def test_the_temperature_that_made_scores_too_sure_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2.0, size=40_000)
    truths = rng.random(40_000) < _sigmoid(logits)
    sure = 2.5 * logits
    temperature = fit_temperature(sure, truths)
    assert temperature == pytest.approx(2.5, rel=0.05)
    before, after = (expected_calibration_error(reliability(_sigmoid(x), truths)) for x in (sure, sure / temperature))
    assert after < 0.01 < 0.05 < before


def test_one_kind_of_truth_fits_no_temperature() -> None:
    with pytest.raises(ValueError, match="got 3 right of 3"):
        fit_temperature(np.zeros(3), np.ones(3, bool))


def test_no_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="got 0 and 0"):
        reliability(np.zeros(0), np.zeros(0, bool))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
