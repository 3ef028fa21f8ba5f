"""Facts about what a request keeps when it goes on in another replica, and about a stream that is closed."""

import gc
import weakref

from orchestrator.core.confidence import ConfidenceFloor, StepConfidence
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.policy.requests import PoolStream


def stream_of(**how: object) -> PoolStream:
    settings = {"prefix_ids": (1,), "max_tokens": 10, "seed": 0, "temperature": 1.0, "top_p": 1.0, **how}
    return PoolStream([Generation(**settings)], lambda requests: None, lambda requests: None)  # type: ignore[arg-type]


def step(*confidences: float) -> Segment:
    return Segment(token_ids=(5,) * len(confidences), text="x", confidence=StepConfidence(confidences, 0.0, 0.0))


def test_what_goes_on_under_a_floor_takes_the_last_group_along() -> None:
    [request] = stream_of(logprobs=3, floor=ConfidenceFloor(group_tokens=3, least=1.0)).requests
    for segment in (step(1.0, 2.0), step(3.0, 4.0)):
        request.take(segment)
    work = request.work()
    assert work.confidences == (2.0, 3.0, 4.0)
    assert (work.generation.prefix_ids, work.generation.max_tokens) == ((1, 5, 5, 5, 5), 6)


def test_without_a_floor_no_confidences_are_kept() -> None:
    [request] = stream_of(logprobs=3).requests
    request.take(step(1.0, 2.0))
    assert (request.confidences, request.work().confidences) == ([], ())


def test_what_goes_on_may_think_for_as_long_as_was_left() -> None:
    [request] = stream_of(max_thinking=5).requests
    request.take(Segment(token_ids=(5, 5), text="x", thinking=True))
    request.take(Segment(token_ids=(6,), text="y"))
    assert request.work().generation.max_thinking == 3


async def test_what_is_held_to_a_schema_is_written_anew_and_handed_out_when_it_has_ended() -> None:
    stream = stream_of(json_schema="{}")
    [request] = stream.requests
    request.take(Segment(token_ids=(5, 6), text="{"))
    again = request.work().generation
    assert again == request.generation, "from its begin, with the same draws"
    request.take(Segment(token_ids=(5, 6), text="{"))
    request.take(Segment(token_ids=(7,), text="}", finish=Finish.EOS))
    segments = [segment async for _, segment in stream]
    assert [segment.text for segment in segments] == ["{", "}"]
    assert (segments[-1].lost_tokens, segments[-1].discarded_tokens) == (2, 2)


async def test_text_of_steps_that_are_held_is_told_early_as_that_of_one_step() -> None:
    stream = stream_of(json_schema="{}", streams=True)
    [request] = stream.requests
    request.take(Segment(token_ids=(), text="{", early=0))
    request.take(Segment(token_ids=(5, 6), text="{\n\n"))
    request.take(Segment(token_ids=(), text="1", early=0))
    request.take(Segment(token_ids=(7,), text="1}", finish=Finish.EOS))
    told = [(segment.early, segment.text) async for _, segment in stream]
    assert told == [(0, "{"), (0, "{\n\n"), (3, "1"), (None, "{\n\n"), (None, "1}")]


async def test_a_stream_that_is_closed_is_freed_without_a_garbage_collection_and_an_abort_of_it_is_nothing() -> None:
    stream = stream_of()
    alive = weakref.ref(stream)
    gc.disable()
    try:
        await stream.aclose()
        stream.abort([0])
        del stream
        assert alive() is None
    finally:
        gc.enable()
