"""A response of `/v1/responses` as a stream: each event has its name and its number."""

from collections.abc import Generator, Iterator, Sequence
from itertools import count
from typing import Any, TypeVar

from orchestrator.core.search_events import SearchEvent, TextWritten, as_json
from orchestrator.serving.dialects.contract import Stamp
from orchestrator.serving.dialects.reports import untold
from orchestrator.serving.dialects.response_items import CallItem, Item, MessageItem, ReasoningItem
from orchestrator.serving.dialects.response_objects import parts_of, response_object
from orchestrator.serving.dialects.tools import calls_of, content_of
from orchestrator.serving.errors import ApiError
from orchestrator.serving.events import Ended, data
from orchestrator.serving.narration import in_words
from orchestrator.serving.orders import Choice, Order

T = TypeVar("T", bound=ReasoningItem | MessageItem)


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
        yield from self._add(ReasoningItem if text.thinking else MessageItem, text.text, happened=[text])

    def progress(self, index: int, search_events: Sequence[SearchEvent]) -> Iterator[str]:
        """As a summary of the reasoning; where the answer has begun, beside an empty piece of it."""
        if not self._items:
            yield from self._in(ReasoningItem)
        item = self._items[-1]
        assert not isinstance(item, CallItem), "calls are told when the search has ended"
        told = item.summary(in_words(search_events)) if isinstance(item, ReasoningItem) else item.text("", ())
        yield from self._events(told, search_events)

    def ended(self, event: Ended) -> Iterator[str]:
        answered = event.answered
        [choice] = answered.choices
        yield from self._called(choice) if choice.trajectory.calling is not None else self._said(choice)
        yield from self._close()
        output = [item.whole for item in self._items]
        whole = response_object(self._order, self._stamp, output=output, answered=answered)
        yield self._event(f"response.{whole['status']}", response=whole)

    def _said(self, choice: Choice) -> Iterator[str]:
        parts = parts_of(self._order, choice)
        for (step, text), (_, logprobs) in zip(untold([step for step, _ in parts], self._num_told), parts, strict=True):
            if text:
                yield from self._add(ReasoningItem if step.thinking else MessageItem, text, logprobs)
        yield from self._in(MessageItem)

    def _called(self, choice: Choice) -> Iterator[str]:
        """Its thinking, its words, and its calls: nothing of these was told before."""
        if thoughts := choice.trajectory.thoughts:
            yield from self._add(ReasoningItem, thoughts)
        if content := content_of(choice):
            yield from self._add(MessageItem, content)
        for call_id, call in calls_of(choice, 0, self._stamp):
            yield from self._begin(CallItem(self._stamp, len(self._items), call_id, call))

    def _add(
        self,
        kind: type[ReasoningItem] | type[MessageItem],
        text: str,
        logprobs: Sequence[dict[str, Any]] = (),
        happened: Sequence[SearchEvent] = (),
    ) -> Iterator[str]:
        """More text of that kind."""
        item = yield from self._in(kind)
        yield from self._events(item.text(text, logprobs), happened)

    def failed(self, error: ApiError) -> Iterator[str]:
        yield self._event("response.failed", response=response_object(self._order, self._stamp, error=error))

    def closed(self) -> Iterator[str]:
        yield from ()

    def _in(self, kind: type[T]) -> Generator[str, None, T]:
        """Goes on in an item of that kind, which is the open one or a new one."""
        if self._items and isinstance(last := self._items[-1], kind):
            return last
        item = kind(self._stamp, len(self._items))
        yield from self._begin(item)
        return item

    def _begin(self, item: Item) -> Iterator[str]:
        yield from self._close()
        self._items.append(item)
        yield self._event("response.output_item.added", output_index=item.index, item=item.begun)

    def _close(self) -> Iterator[str]:
        if self._items:
            item = self._items[-1]
            yield from self._events(item.close())
            yield self._event("response.output_item.done", output_index=item.index, item=item.whole)

    def _events(self, told: Sequence[dict[str, Any]], happened: Sequence[SearchEvent] = ()) -> Iterator[str]:
        """Events by their types; the last of them carries what happened, where that is asked for."""
        for number, fields in enumerate(told, start=1):
            carried = {}
            if happened and self._order.events and number == len(told):
                carried = {"headrace": {"events": [as_json(one) for one in happened]}}
            yield self._event(fields["type"], **{**fields, **carried})

    def _event(self, name: str, /, **fields: Any) -> str:
        return data({**fields, "type": name, "sequence_number": next(self._numbers)}, name)
