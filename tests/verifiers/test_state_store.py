"""Facts about the store of carried states."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verifiers.state_store import MissingStates, StateStore


def store(num_slots: int = 2, host_slots: int = 0, model_hash: str = "m", numel: int = 3) -> StateStore:
    return StateStore(num_slots=num_slots, state_numel=numel, host_slots=host_slots, model_hash=model_hash)


def row(value: float, numel: int = 3) -> torch.Tensor:
    return torch.full((1, numel), float(value))


def test_states_come_back_in_the_order_asked_and_may_repeat() -> None:
    held = store()
    held.put(["a", "b"], torch.cat([row(1), row(2)]), [10, 20])
    assert held.get(["b", "a", "b"])[:, 0].tolist() == [2, 1, 2]
    assert (held.num_tokens("a"), held.num_tokens("b")) == (10, 20)


def test_what_it_takes_and_gives_are_copies() -> None:
    held, given_state = store(), row(1)
    held.put(["a"], given_state, [1])
    given_state.zero_()
    held.get(["a"]).zero_()
    held.export("a").data[:] = 0
    assert held.get(["a"]).tolist() == [[1, 1, 1]]


def test_the_least_recently_used_is_spilled_first_and_comes_back() -> None:
    held = store(host_slots=1)
    held.put(["a", "b"], torch.cat([row(1), row(2)]), [1, 2])
    held.get(["a"])
    held.put(["c"], row(3), [3])
    assert "b" in held and held.get(["b"])[0, 0] == 2
    held.put(["d"], row(4), [4])
    assert len(held) == 3 and "b" in held and "d" in held


def test_without_room_on_the_host_the_oldest_is_dropped_and_named_when_asked_for() -> None:
    held = store(host_slots=0)
    held.put(["a", "b"], torch.cat([row(1), row(2)]), [1, 2])
    held.put(["c"], row(3), [3])
    assert held.missing(["a", "b", "c"]) == ["a"]
    with pytest.raises(MissingStates) as error:
        held.get(["a", "c"])
    assert error.value.keys == ("a",)


def test_freeing_twice_is_harmless_and_makes_room() -> None:
    held = store(host_slots=0)
    held.put(["a", "b"], torch.cat([row(1), row(2)]), [1, 2])
    held.free(["a", "a", "never held"])
    held.free(["a"])
    held.put(["c"], row(3), [3])
    assert held.get(["b", "c"])[:, 0].tolist() == [2, 3]


@pytest.mark.parametrize("host_slots", [0, 1])
def test_an_exported_state_is_the_same_elsewhere(host_slots: int) -> None:
    source, target = store(num_slots=1, host_slots=host_slots), store()
    source.put(["a"], row(7), [42])
    if host_slots:
        source.put(["b"], row(8), [1])  # spills a
    target.import_("a2", source.export("a"))
    assert target.get(["a2"]).tolist() == [[7, 7, 7]] and target.num_tokens("a2") == 42


def test_a_state_from_another_model_is_refused() -> None:
    held = store()
    held.put(["a"], row(1), [1])
    blob = held.export("a")
    with pytest.raises(ValueError, match="model m, wanted other"):
        store(model_hash="other").import_("a", blob)
    with pytest.raises(ValueError, match=r"size \(3,\), wanted \(5,\)"):
        store(numel=5).import_("a", blob)
    with pytest.raises(ValueError, match="layout version 0, wanted 1"):
        held.import_("a", replace(blob, layout_version=0))
    with pytest.raises(ValueError, match="dtype float16, wanted float32"):
        held.import_("a", replace(blob, data=blob.data.astype(np.float16)))


def test_slots_that_do_not_fit_in_memory_are_refused_with_the_setting_to_lower() -> None:
    with pytest.raises(ValueError, match=r"lower verifier\.slots"):
        StateStore(num_slots=1 << 40, state_numel=1 << 20, host_slots=0, model_hash="m")


@given(
    num_slots=st.integers(1, 4),
    host_slots=st.integers(0, 3),
    operations=st.lists(
        st.tuples(st.sampled_from(["put", "get", "free"]), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
        max_size=30,
    ),
)
def test_any_schedule_gives_back_what_was_put_or_says_that_it_is_missing(
    num_slots: int, host_slots: int, operations: list[tuple[str, list[int]]]
) -> None:
    held = store(num_slots=num_slots, host_slots=host_slots)
    truth: dict[str, float] = {}
    for version, (operation, numbers) in enumerate(operations):
        keys = [str(number) for number in dict.fromkeys(numbers)][:num_slots]
        if operation == "put":
            values = [100.0 * version + i for i in range(len(keys))]
            held.put(keys, torch.cat([row(value) for value in values]), [version] * len(keys))
            truth.update(zip(keys, values, strict=True))
        elif operation == "free":
            held.free(keys)
            for key in keys:
                truth.pop(key, None)
        elif not held.missing(keys):
            assert held.get(keys)[:, 0].tolist() == [truth[key] for key in keys]
        assert len(held) <= num_slots + host_slots
        assert all(key in truth for key in map(str, range(10)) if key in held)
        assert len(held) == min(len(truth), len(held))
