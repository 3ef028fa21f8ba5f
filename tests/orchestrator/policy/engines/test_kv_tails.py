import pytest

from orchestrator.policy.engines.kv_tails import KeptTails


def test_the_longest_kept_beginning_is_found() -> None:
    tails = KeptTails(4)
    short, long = tails.keep("base", [1, 2]), tails.keep("base", [1, 2, 3])
    assert tails.longest("base", [1, 2, 3, 4]) == (3, long)
    assert tails.longest("base", [1, 2, 9]) == (2, short)


def test_nothing_is_found_after_another_base_or_in_another_text() -> None:
    tails = KeptTails(4)
    tails.keep("base", [1, 2])
    assert [tails.longest("other", [1, 2]), tails.longest("base", [2, 1]), tails.longest("base", [1])] == [None] * 3


def test_what_is_kept_already_takes_no_other_slot() -> None:
    tails = KeptTails(1)
    slot = tails.keep(None, [1])
    assert tails.keep(None, [1]) is None
    assert tails.longest(None, [1]) == (1, slot)


def test_the_least_recently_used_slot_is_given_away() -> None:
    tails = KeptTails(2)
    first, second = tails.keep("base", [1]), tails.keep("base", [2])
    tails.longest("base", [1, 9])
    assert tails.keep("base", [3]) == second
    assert tails.longest("base", [1]) == (1, first)
    assert tails.longest("base", [2]) is None


def test_no_slot_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_slots must be >= 1, got 0"):
        KeptTails(0)
