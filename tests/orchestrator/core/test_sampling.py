"""Facts about how tokens are drawn."""

import pytest

from orchestrator.core.protocols import Sampling


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_k", -1), ("min_p", 1.1), ("min_p", -0.1), ("repetition_penalty", 0), ("stop", [""]), ("top_p", 0)],
)
def test_a_value_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"sampling: {field} must be"):
        Sampling(**{field: value})


def test_a_request_is_drawn_as_the_sampling_says_but_for_what_the_strategy_asks() -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2, stop=["Q:"])
    request = sampling.generation(temperature=0.0, stop=["Answer:"], max_tokens=9, until_step=True)
    assert (request.temperature, request.top_p, request.top_k) == (0.0, 0.9, 5)
    assert (request.min_p, request.repetition_penalty, request.stop) == (0.1, 1.2, ("Q:", "Answer:"))
    assert (request.max_tokens, request.until_step) == (9, True)
    assert sampling.generation(temperature=None, max_tokens=9).temperature == 0.7


def test_a_text_ends_before_the_first_of_the_stops() -> None:
    sampling = Sampling(stop=["Q:", "\n\n"])
    assert sampling.stopped_at("", "4\n\nQ: 1") == 1
    assert sampling.stopped_at("", "4") is None


def test_a_stop_may_begin_in_what_came_before_but_must_end_in_what_is_new() -> None:
    sampling = Sampling(stop=["\n\nQ:"])
    assert sampling.seen("Answer: 4\n\nQ") == "\n\nQ"
    assert sampling.stopped_at("\n\nQ", ": 1") == -3
    assert sampling.stopped_at("\n\nQ:", " 1") is None
    assert Sampling().seen("Answer: 4") == ""
