"""A response of `/v1/responses` as a stream: each event has its name and its number."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from orchestrator.core.happenings import Happening, TextWritten, as_json
from orchestrator.serving.dialects.contract import Stamp
from orchestrator.serving.dialects.reports import untold
from orchestrator.serving.dialects.response_items import Item, MessageItem, ReasoningItem
from orchestrator.serving.dialects.response_objects import parts_of, response_object
from orchestrator.serving.errors import ApiError
from orchestrator.serving.events import Ended, data
from orchestrator.serving.narration import in_words
from orchestrator.serving.orders import Order


class ResponseWriter:
    """Implements `Writer`: the response that has begun, then the items of its output as they are written or by steps,
    then the whole."""

    def __init__(self, order: Order, stamp: Stamp) -> None:
        self._order = order
        self._stamp = stamp
        self._numbers = count()
        self._items: list[Item] = []  # the last one is open
        self._num_told = 0  # characters of the answer, thinking included

    def begun(self) -> Iterator[str]:
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=response_object(self._order, self._stamp))

    def text(self, index: int, text: TextWritten) -> Iterator[str]:
        self._num_told += len(text.text)
        yield from self._in(ReasoningItem if text.thinking else MessageItem)
        yield from self._events(self._items[-1].text(text.text, ()), [text])

    def progress(self, index: int, happenings: Sequence[Happening]) -> Iterator[str]:
        """As a summary of the reasoning; where the answer has begun, beside an empty piece of it."""
        if not self._items:
            yield from self._in(ReasoningItem)
        item = self._items[-1]
        told = item.summary(in_words(happenings)) if isinstance(item, ReasoningItem) else item.text("", ())
        yield from self._events(told, happenings)

    def ended(self, event: Ended) -> Iterator[str]:
        answered = event.answered
        [choice] = answered.choices
        parts = parts_of(self._order, choice)
        for (step, text), (_, logprobs) in zip(untold([step for step, _ in parts], self._num_told), parts, strict=True):
            if text:
                yield from self._in(ReasoningItem if step.thinking else MessageItem)
                yield from self._events(self._items[-1].text(text, logprobs))
        yield from self._in(MessageItem)
        yield from self._close()
        output = [item.whole for item in self._items]
        whole = response_object(self._order, self._stamp, output=output, answered=answered)
        yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, error: ApiError) -> Iterator[str]:
        yield self._event("response.failed", response=response_object(self._order, self._stamp, error=error))

    def closed(self) -> Iterator[str]:
        yield from ()

    def _in(self, kind: type[Item]) -> Iterator[str]:
        """Goes on in an item of that kind, which is the open one or a new one."""
        if self._items and isinstance(self._items[-1], kind):
            return
        yield from self._close()
        item = kind(self._stamp, len(self._items))
        self._items.append(item)
        yield self._event("response.output_item.added", output_index=item.index, item=item.begun)

    def _close(self) -> Iterator[str]:
        if self._items:
            item = self._items[-1]
            yield from self._events(item.close())
            yield self._event("response.output_item.done", output_index=item.index, item=item.whole)

    def _events(self, told: Sequence[dict[str, Any]], happened: Sequence[Happening] = ()) -> Iterator[str]:
        """Events by their types; the last of them carries what happened, where that is asked for."""
        for number, fields in enumerate(told, start=1):
            carried = {}
            if happened and self._order.events and number == len(told):
                carried = {"headrace": {"events": [as_json(one) for one in happened]}}
            yield self._event(fields["type"], **{**fields, **carried})

    def _event(self, name: str, **fields: Any) -> str:
        return data({**fields, "type": name, "sequence_number": next(self._numbers)}, name)
