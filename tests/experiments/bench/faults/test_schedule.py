"""Facts about when faults strike."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from experiments.bench.faults.schedule import schedule

KINDS = ("killed", "stopped", "late")


@given(num=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_as_many_strike_as_are_wanted_and_all_kinds_alike(num: int, seed: int) -> None:
    strikes = schedule(KINDS, num, seed)
    counts = Counter(strike.kind for strike in strikes)
    assert len(strikes) == num
    assert max(counts[kind] for kind in KINDS) - min(counts[kind] for kind in KINDS) <= 1
    for first in range(0, num - num % len(KINDS), len(KINDS)):  # a run meets each kind once
        assert {strike.kind for strike in strikes[first : first + len(KINDS)]} == set(KINDS)


def test_a_seed_says_all_and_another_one_says_something_else() -> None:
    assert schedule(KINDS, 20, 1) == schedule(KINDS, 20, 1)
    assert schedule(KINDS, 20, 1) != schedule(KINDS, 20, 2)
