"""Facts about values that are made and sent in numbers."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from ray import cloudpickle

from orchestrator.core.nouns import Score
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.values import Parcel, changed, made
from orchestrator.policy.host import Work
from verifiers.contract import Missing, Read, Run

PREFIX = tuple(range(1000))
GENERATION = Generation(prefix_ids=PREFIX, max_tokens=5, seed=7, temperature=0.5, top_p=1.0, stop=("a",), logprobs=1)
VALUES = [
    GENERATION,
    Work(generation=replace(GENERATION, seen="text"), confidences=(0.5,)),
    Segment(token_ids=(1, 2), text="one", finish=Finish.EOS, queue_s=0.25),
    Score(mean=0.5, std=0.1),
    Run(key="a/1", token_ids=(3,), boundaries=(1,), parent="a/0", keep_parent=False),
    Read(scores=(Score(mean=0.0),), tokens_read=3, flops=1.5),
    Missing(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_arrives_as_it_was_sent_and_frozen(value: object) -> None:
    arrived = pickle.loads(cloudpickle.dumps(value))
    assert arrived == value and type(arrived) is type(value)
    with pytest.raises((FrozenInstanceError, TypeError)):
        arrived.key = "another"


def test_a_changed_value_is_another_one_with_all_else_as_it_was() -> None:
    segment = Segment(token_ids=(1, 2), text="one", cached_tokens=3)
    assert changed(segment, text="two", engine_s=0.5) == replace(segment, text="two", engine_s=0.5)
    assert segment.text == "one"
    with pytest.raises(AttributeError, match="words"):
        changed(segment, words=())


def test_a_value_is_not_made_of_too_few_fields() -> None:
    assert made(Score, 0.5, 0.1) == Score(mean=0.5, std=0.1)
    with pytest.raises(TypeError, match="missing"):
        made(Score, 0.5)


def test_a_parcel_arrives_as_a_list_of_what_was_in_it() -> None:
    arrived = pickle.loads(cloudpickle.dumps(Parcel(VALUES)))
    assert arrived == VALUES and type(arrived) is list


def test_what_the_values_of_a_parcel_share_is_sent_once() -> None:
    def size(num: int) -> int:
        return len(pickle.dumps(Parcel(Run(key=f"a/{number}", token_ids=PREFIX) for number in range(num))))

    assert size(16) < 1.5 * size(1)


def test_ray_asks_about_a_parcel_once_whatever_is_in_it() -> None:
    asked: list[object] = []

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: object) -> object:
            asked.append(obj)
            return super().reducer_override(obj)

    for num in (1, 100):
        asked.clear()
        Pickler(_Sink()).dump(Parcel(Score(mean=number / num) for number in range(num)))
        assert sum(isinstance(value, Parcel | Score) for value in asked) == 1


class _Sink:
    def write(self, data: bytes) -> int:
        return len(data)
