"""A response of `/v1/responses` as a stream: each event has its name and its number."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from orchestrator.serving.dialects.contract import Stamp
from orchestrator.serving.dialects.response_objects import (
    message_item,
    output_of,
    parts_of,
    reasoning_item,
    reasoning_part,
    response_object,
    text_part,
)
from orchestrator.serving.errors import ApiError
from orchestrator.serving.events import Ended, data
from orchestrator.serving.orders import Order


class ResponseWriter:
    """Implements `Writer`: the response that has begun, then the items of its output by steps, then the whole."""

    def __init__(self, order: Order, stamp: Stamp) -> None:
        self._order = order
        self._stamp = stamp
        self._numbers = count()

    def begun(self) -> Iterator[str]:
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=response_object(self._order, self._stamp))

    def ended(self, event: Ended) -> Iterator[str]:
        answered = event.answered
        [choice] = answered.choices
        parts = parts_of(self._order, choice)
        output = output_of(self._order, answered, self._stamp)
        for index, item in enumerate(output):
            thinking = item["type"] == "reasoning"
            steps = [(step.text, told) for step, told in parts if step.thinking == thinking and step.text]
            yield from self._item(index, item, steps)
        whole = response_object(self._order, self._stamp, output=output, answered=answered)
        yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, error: ApiError) -> Iterator[str]:
        yield self._event("response.failed", response=response_object(self._order, self._stamp, error=error))

    def closed(self) -> Iterator[str]:
        yield from ()

    def _item(
        self, index: int, item: dict[str, Any], steps: Sequence[tuple[str, list[dict[str, Any]]]]
    ) -> Iterator[str]:
        """One item of the output, which has one part."""
        thinking = item["type"] == "reasoning"
        begun = reasoning_item(self._stamp) if thinking else message_item(self._stamp)
        empty = reasoning_part("") if thinking else text_part("", ())
        [part] = item["content"]
        text = "response.reasoning_text" if thinking else "response.output_text"
        place = {"output_index": index, "item_id": item["id"], "content_index": 0}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.content_part.added", **place, part=empty)
        for delta, logprobs in steps:
            yield self._event(f"{text}.delta", **place, delta=delta, **({} if thinking else {"logprobs": logprobs}))
        told = {} if thinking else {"logprobs": part["logprobs"]}
        yield self._event(f"{text}.done", **place, text=part["text"], **told)
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, name: str, **fields: Any) -> str:
        return data({"type": name, "sequence_number": next(self._numbers), **fields}, name)
