from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.difficulty import difficulty_bins, in_bins, oracle_difficulty, predicted_difficulty
from experiments.analysis.metrics import SampleSet

GRADES = st.dictionaries(st.text(max_size=4), st.floats(0, 1), min_size=5, max_size=40)


def test_oracle_and_predicted_difficulty_are_told_apart() -> None:
    pool = SampleSet(groups=[0, 1, 1, None], correct=[True, False, False, False], scores=[0.2, 0.9, None, 0.4])
    again = SampleSet(groups=[0], correct=[True], scores=[0.5])
    unscored = SampleSet(groups=[0], correct=[True], scores=[None])
    samples = {"a": [pool, again], "b": [unscored]}
    assert oracle_difficulty(samples) == pytest.approx({"a": 1 - 2 / 5, "b": 0.0})
    assert predicted_difficulty(samples) == pytest.approx({"a": 1 - (0.2 + 0.9 + 0.4 + 0.5) / 4}), "b was not judged"
    with pytest.raises(ValueError, match="got none of 'c'"):
        oracle_difficulty({"c": []})


def test_quintiles_of_different_problems_are_equal_parts_the_easiest_first() -> None:
    bins = difficulty_bins({f"p{i}": i / 10 for i in range(10)})
    assert [bins[f"p{i}"] for i in range(10)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_equal_problems_share_a_bin_even_if_others_stay_empty() -> None:
    grades = {"a": 0.0, "b": 0.5, "c": 0.5, "d": 0.5, "e": 0.5, "f": 0.5, "g": 1.0}
    assert difficulty_bins(grades) == {"a": 1, **dict.fromkeys("bcdef", 3), "g": 5}
    assert set(difficulty_bins(dict.fromkeys("abcde", 0.3)).values()) == {3}, "the middle bin"


@settings(deadline=None, max_examples=50)
@given(GRADES, st.integers(1, 5))
def test_bins_follow_difficulty_and_no_order_of_problems(grades: dict[str, float], num_bins: int) -> None:
    bins = difficulty_bins(grades, num_bins=num_bins)
    assert bins == difficulty_bins(dict(reversed(grades.items())), num_bins=num_bins)
    by_difficulty = sorted(grades, key=lambda problem: grades[problem])
    assert [bins[problem] for problem in by_difficulty] == sorted(bins.values())
    assert all(1 <= number <= num_bins for number in bins.values())
    if len({round(grade, 12) for grade in grades.values()}) == len(grades):
        sizes = Counter(bins.values())
        assert len(sizes) == num_bins and max(sizes.values()) - min(sizes.values()) <= 1


def test_bins_need_as_many_problems() -> None:
    with pytest.raises(ValueError, match="as many problems as bins, got 2 for 5"):
        difficulty_bins({"a": 0.1, "b": 0.2})


def test_values_fall_into_the_bins_of_their_problems() -> None:
    found = in_bins({"b": 0.5, "a": 1.0, "c": 0.0, "unknown": 1.0}, {"a": 2, "b": 2, "c": 1, "lacking": 3})
    assert found == {1: {"c": 0.0}, 2: {"a": 1.0, "b": 0.5}} and list(found) == [1, 2]
