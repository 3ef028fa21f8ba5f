import random

import pytest

from orchestrator.routing import PrefixAffinity, choose_replica


def test_work_stays_with_its_replica_until_that_is_overloaded() -> None:
    assert choose_replica({0: 0.2, 1: 0.0}, preferred=0) == 0  # within the slack
    assert choose_replica({0: 0.8, 1: 0.5}, preferred=0) == 0  # within the ratio
    assert choose_replica({0: 0.8, 1: 0.3}, preferred=0) == 1


def test_without_a_preference_the_least_loaded_replica_wins_and_ties_go_to_the_lowest() -> None:
    assert choose_replica({0: 3, 1: 1, 2: 2}, preferred=None) == 1
    assert choose_replica({2: 1, 1: 1}, preferred=None) == 1


def test_a_preferred_replica_that_is_gone_is_passed_over() -> None:
    assert choose_replica({1: 5.0}, preferred=0) == 1


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="loads must not be empty"):
        choose_replica({}, preferred=None)


def test_two_random_choices_spread_work_and_never_take_the_worst() -> None:
    rng = random.Random(0)
    loads = {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
    chosen = {choose_replica(loads, None, rng=rng) for _ in range(200)}
    assert chosen == {0, 1, 2}


def test_a_family_is_known_by_its_longest_prefix() -> None:
    affinity = PrefixAffinity(block_size=4)
    affinity.record(range(10), 1)
    assert affinity.preferred(range(10)) == 1  # a sibling
    assert affinity.preferred(range(14)) == 1  # a child
    affinity.record(range(14), 0)
    assert affinity.preferred(range(20)) == 0  # the latest to have seen it


def test_a_shared_opening_makes_no_family() -> None:
    affinity = PrefixAffinity(block_size=4)
    affinity.record([*range(8), *range(100, 120)], 1)
    assert affinity.preferred([*range(8), *range(200, 220)]) is None


def test_a_replica_that_lost_its_cache_is_forgotten() -> None:
    affinity = PrefixAffinity(block_size=4)
    affinity.record(range(8), 0)
    affinity.forget(0)
    assert affinity.preferred(range(8)) is None


def test_the_memory_is_bounded_and_the_oldest_goes_first() -> None:
    affinity = PrefixAffinity(block_size=4, capacity=2)
    affinity.record(range(8), 0)
    affinity.record(range(50, 58), 1)
    assert affinity.preferred(range(8)) is None
    assert affinity.preferred(range(50, 58)) == 1
