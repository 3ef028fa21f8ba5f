import numpy as np
import pytest

from experiments.bench.adaptive import Curve, _needed, _ratio, baseline_of, measure
from tests.experiments.synthetic import NUM_PROBLEMS, write_run


def test_what_a_curve_needs_is_read_off_between_its_settings():
    samples, accuracy = np.array([4.0, 2.0, 8.0]), np.array([0.6, 0.4, 0.6])
    assert _needed(samples, accuracy, 0.5) == pytest.approx(3)
    assert _needed(samples, accuracy, 0.6) == 4
    assert _needed(samples, accuracy, 0.1) == 2


def test_a_curve_that_never_gets_there_needs_as_much_as_uniform():
    uniform = np.tile(np.linspace(0.1, 0.8, 8)[:, None], (1, 20))
    curve = Curve(settings=("a",), samples=np.full((1, 20), 4.0), accuracy=np.full((1, 20), 0.1))
    found = _ratio(curve, uniform, 8)
    assert 1 <= found["ratio"] < 1.02 and found["same_accuracy"] == pytest.approx(0.99, abs=0.02)


def test_samples_are_compared_at_equal_accuracy(tmp_path):
    write_run(tmp_path / "run")
    found = measure(tmp_path / "run")
    assert (found["num_problems"], found["recorded_samples"], found["seeds"]) == (NUM_PROBLEMS, 8, [0, 1, 2])
    assert found["baseline"] == {"strategy": "best_of_n", "n": 8, "accuracy": pytest.approx(11 / 12)}
    for name in ("per_problem", "oracle_difficulty"):
        assert found[name]["ratio_min"] <= found[name]["ratio"] <= found[name]["ratio_max"]
    assert 1 < found["ratio"] <= 4
    for rule in ("beta", "dirichlet", "window"):
        voted = found["adaptive_consistency"][rule]
        assert voted["ratio_min"] <= voted["ratio"] <= voted["ratio_max"]
        assert voted["by_default"]["samples"] < 8
    assert found["adaptive_consistency"]["cges"] == {"not_measured": "the recorded run asked for no log-probabilities"}
    assert found["at_a_quarter_of_the_samples"]["samples"] == 2
    assert "best_of_n n=8" in baseline_of(found)


def test_a_run_without_a_verifier_has_votes_to_measure(tmp_path):
    write_run(tmp_path / "run", judged=False)
    found = measure(tmp_path / "run", seeds=(0,))
    voted = found["adaptive_consistency"]["beta"]
    assert (found["ratio"], found["ratio_min"]) == (voted["ratio"], voted["ratio_min"])
    assert voted["by_default"]["samples"] < 8
    assert "self_consistency n=8" in baseline_of(found)


def test_cges_is_measured_where_log_probabilities_were_recorded(tmp_path):
    write_run(tmp_path / "run", confident=True)
    found = measure(tmp_path / "run", seeds=(0,))["adaptive_consistency"]["cges"]
    assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    assert found["by_default"]["samples"] < 8
