from itertools import count
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.labelling.estimates import FirstError, all_so_far, hardened

POSSIBLE = {0.0: [0.0], 0.5: [0.5], 1.0: [1.0], None: [0.0, 1.0]}


@given(st.data(), st.integers(1, 300))
def test_binary_search_finds_the_first_error_that_looking_everywhere_finds(data, num_steps):
    first_wrong = data.draw(st.integers(0, num_steps - 1))
    right = [step < first_wrong for step in range(num_steps)]
    asked = []
    search = FirstError(high=num_steps - 1)
    while not search.found:
        asked.append(search.step)
        search = search.told(right[search.step])
    assert search.high == next(step for step in count() if not right[step])
    assert search.labels(num_steps) == tuple(map(float, right))
    assert len(asked) == len(set(asked)) <= ceil(log2(num_steps))


@given(st.lists(st.sampled_from([0.0, 1.0, None]), max_size=6))
def test_a_label_is_known_exactly_where_every_reading_of_the_unknown_steps_agrees(steps):
    readings = [()]
    for step in steps:
        readings = [(*reading, value) for reading in readings for value in POSSIBLE[step]]
    for end, label in enumerate(all_so_far(steps), start=1):
        assert {min(reading[:end]) for reading in readings} == ({0.0, 1.0} if label is None else {label})


def test_soft_steps_keep_their_lowest_so_far():
    assert all_so_far([0.9, 0.5, 0.7, None, 0.2, 0.0, 1.0]) == (0.9, 0.5, 0.5, None, None, 0.0, 0.0)


@pytest.mark.parametrize(("threshold", "labels"), [(0.0, (1.0, 1.0, 1.0, 0.0, 0.0)), (0.25, (1.0, 0.0, 0.0, 0.0, 0.0))])
def test_hard_labels_are_zero_from_the_first_one_that_is_not_above_the_threshold(threshold, labels):
    assert hardened([0.5, 0.25, 0.75, 0.0, 0.5], threshold) == labels
