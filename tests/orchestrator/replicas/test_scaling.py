"""Facts about how many replicas a pool has, and which places have them."""

import pytest

from orchestrator.core.config import PolicyConfig, VerifierConfig
from orchestrator.replicas.members import Load
from orchestrator.replicas.scaling import Sample, Scaling, Stage, chosen, kept, needed, scaling_of, wanted

SCALING = Scaling(least=1, most=4, up_after_s=10.0, down_after_s=100.0)


def samples(*seen: tuple[float, int]) -> list[Sample]:
    return [Sample(at=at, replicas=replicas) for at, replicas in seen]


@pytest.mark.parametrize(
    ("running", "waiting", "serving", "replicas"),
    [
        (0.0, 0.0, 2, 0),
        (0.4, 0.0, 1, 1),
        (1.0, 0.0, 2, 1),
        (1.2, 0.0, 2, 2),
        (0.9, 0.05, 1, 2),  # what waits fits none, however little it is
        (1.0, 0.6, 1, 2),
        (1.0, 50.0, 1, 2),  # twice as many at most
        (3.0, 50.0, 3, 6),
        (0.0, 3.0, 0, 2),
    ],
)
def test_work_that_waits_calls_for_more_replicas(running: float, waiting: float, serving: int, replicas: int) -> None:
    assert needed(Load(running=running, waiting=waiting), serving) == replicas


def test_a_pool_grows_when_more_was_wanted_all_the_while_by_the_least_of_it() -> None:
    assert wanted(samples((0, 1), (3, 2), (8, 3)), 9, 1, SCALING) == 1
    assert wanted(samples((0, 2), (3, 4), (8, 3)), 10, 1, SCALING) == 2
    assert wanted(samples((0, 2), (3, 1), (8, 3)), 10, 1, SCALING) == 1
    assert wanted(samples((0, 9), (8, 9)), 12, 2, SCALING) == 4


def test_a_pool_shrinks_when_fewer_was_enough_for_much_longer_to_the_most_of_it() -> None:
    assert wanted(samples((0, 1), (50, 2), (90, 1)), 99, 4, SCALING) == 4
    assert wanted(samples((0, 1), (50, 2), (90, 1)), 100, 4, SCALING) == 2
    assert wanted(samples((0, 0), (90, 0)), 100, 4, SCALING) == 1


def test_a_pool_of_which_nothing_is_known_stays_between_its_bounds() -> None:
    assert wanted([], 0, 2, SCALING) == 2
    assert wanted([], 0, 9, SCALING) == 4


def test_samples_are_kept_as_long_as_a_decision_looks_back() -> None:
    seen = samples((0, 1), (10, 2), (50, 3), (160, 4))
    assert kept(seen, 150, SCALING) == seen[2:]
    assert kept(seen[:2], 20, SCALING) == seen[:2]


def test_what_serves_stays_and_the_one_with_the_least_to_do_goes() -> None:
    serve, drain, load, wait, idle, empty = Stage
    assert chosen([serve, serve, serve], 2, [0.2, 0.1, 0.5]) == {0, 2}
    assert chosen([serve, serve, idle], 3, [0.0] * 3) == {0, 1, 2}
    assert chosen([wait, load, idle], 1, [0.0] * 3) == {1}
    assert chosen([wait, drain], 1, [0.0, 0.3]) == {1}, "a replica that drains is taken back when another one is lost"
    assert chosen([drain, serve], 1, [0.9, 0.1]) == {1}
    assert chosen([empty, idle], 1, [0.0] * 2) == {1}


def test_a_number_that_is_fixed_does_not_move_and_both_are_refused() -> None:
    assert scaling_of(PolicyConfig(model="m", replicas=3)) is None
    found = scaling_of(VerifierConfig(min_replicas=2, max_replicas=3))
    assert found is not None and (found.least, found.most) == (2, 3)
    found = scaling_of(PolicyConfig(model="m", max_replicas=3))
    assert found is not None and (found.least, found.most) == (1, 3)
    with pytest.raises(ValueError, match=r"policy: wanted replicas .*, or min_replicas and max_.*, got replicas 2"):
        PolicyConfig(model="m", replicas=2, max_replicas=3)
    with pytest.raises(ValueError, match="verifier: min_replicas needs max_replicas, got min_replicas 2 alone"):
        VerifierConfig(min_replicas=2)
    with pytest.raises(ValueError, match="policy: max_replicas must be >= 3, got 2"):
        PolicyConfig(model="m", min_replicas=3, max_replicas=2)
