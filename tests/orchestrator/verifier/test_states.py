"""Facts about where a driver believes the verifier's states to be, over replicas that only note what they are told."""

from typing import Any

import pytest

from orchestrator.core.nouns import StateHandle
from orchestrator.core.protocols import ScoreRequest
from orchestrator.verifier.states import States


class Place:
    """A replica that serves."""

    def __init__(self, index: int) -> None:
        self.index, self.epoch, self.up = index, 0, True
        self.told: list[str] = []  # to forget

    def release(self, keys: list[str]) -> None:
        self.told += keys


HANDLE = StateHandle(replica=0, epoch=0, key="a/1", num_tokens=2)


@pytest.fixture
def places() -> list[Any]:
    return [Place(0), Place(1)]


@pytest.fixture
def states(places: list[Any]) -> States:
    return States(places, max_states=10)


def told(states: States, places: list[Any]) -> list[list[str]]:
    states.send_releases()
    return [place.told for place in places]


def test_a_state_that_was_made_anew_elsewhere_is_forgotten_where_it_was(states: States, places: list[Any]) -> None:
    states.rebuilt(HANDLE, places[1], 0)
    assert states.home(HANDLE) is places[1]
    assert told(states, places) == [["a/1"], []]
    states.rebuilt(HANDLE, places[1], 0)
    assert told(states, places) == [["a/1"], []]


@pytest.mark.parametrize("keep_parent", [True, False])
def test_a_state_that_is_released_while_readings_start_from_it_goes_after_them(
    states: States, places: list[Any], keep_parent: bool
) -> None:
    readings = [
        ScoreRequest(token_ids=(1, 2, last), boundaries=(3,), handle=HANDLE, keep_parent=keep_parent) for last in (3, 4)
    ]
    for reading in readings:
        states.enter(reading)
    states.release([HANDLE])
    states.leave(readings[0])
    assert told(states, places) == [[], []]
    states.rebuilt(HANDLE, places[1], 0)  # for the other one
    states.leave(readings[1])
    assert told(states, places) == [["a/1"], ["a/1"]]
    states.release([HANDLE])
    assert told(states, places) == [["a/1", "a/1"], ["a/1"]]  # by the handle's own word, and a hint only


def test_copies_that_no_reading_used_up_are_forgotten_unless_they_went_down_with_their_replica(
    states: States, places: list[Any]
) -> None:
    states.drop(["a/7"], places[1], 0)
    assert told(states, places) == [[], ["a/7"]]
    places[1].epoch = 1
    states.drop(["a/8"], places[1], 0)
    assert told(states, places) == [[], ["a/7"]]
