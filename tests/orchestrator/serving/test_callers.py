"""What a key may have in flight and may spend."""

import pytest

from orchestrator.serving.callers import Caller
from orchestrator.serving.errors import ApiError
from orchestrator.serving.key_classes import KeyClass


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(caller: Caller) -> ApiError:
    with pytest.raises(ApiError) as caught:
        caller.enter()
    return caught.value


def test_a_key_has_so_many_requests_in_flight() -> None:
    caller = Caller("a", KeyClass(max_in_flight=2))
    caller.enter()
    caller.enter()
    error = refusal(caller)
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 1)
    caller.leave()
    caller.enter()
    assert caller.num_in_flight == 2


def test_a_key_that_has_overspent_waits_until_time_has_made_up_for_it() -> None:
    clock = Clock()
    caller = Caller("a", KeyClass(tokens_per_minute=600), clock)
    caller.enter()
    caller.spend(900)
    assert refusal(caller).retry_after_s == 30  # 300 too many, 10 a second
    clock.now += 29
    assert refusal(caller).retry_after_s == 1
    clock.now += 1.1
    caller.enter()


def test_what_was_not_spent_in_one_minute_is_not_saved_for_the_next() -> None:
    clock = Clock()
    caller = Caller("a", KeyClass(tokens_per_minute=600), clock)
    clock.now += 6000
    caller.spend(600)
    assert refusal(caller).retry_after_s == 1
