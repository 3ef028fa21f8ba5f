import math

import pytest

from strategies.softmax import softmax


def test_weights_are_in_proportion_to_the_exponentials_and_add_up_to_one():
    weights = softmax([0.0, math.log(3)], 1.0)
    assert weights == pytest.approx([0.25, 0.75])


def test_a_low_temperature_gives_all_to_the_largest_and_never_overflows():
    assert softmax([0.5, 0.9], 1e-6) == pytest.approx([0.0, 1.0])


def test_no_score_weighs_nothing_unless_nothing_has_one():
    assert softmax([-math.inf, 0.2], 1.0) == [0.0, 1.0]
    assert softmax([-math.inf, -math.inf], 1.0) == [0.5, 0.5]
