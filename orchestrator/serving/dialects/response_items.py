"""The items of a response's output while they are written. Each call gives the events that it makes, unnumbered."""

from collections.abc import Sequence
from typing import Any

from orchestrator.core.tools import Call
from orchestrator.serving.dialects.contract import Stamp
from orchestrator.serving.dialects.response_objects import (
    call_item,
    message_item,
    reasoning_item,
    reasoning_part,
    text_part,
)

Events = list[dict[str, Any]]


class ReasoningItem:
    """The thinking, and a summary of what happens in the search."""

    def __init__(self, stamp: Stamp, index: int) -> None:
        self.index = index
        self.begun = _numbered(reasoning_item(stamp), index)
        self._text = ""
        self._summary = ""

    def text(self, delta: str, logprobs: Sequence[dict[str, Any]]) -> Events:
        begun: Events = [] if self._text else [self._at("content_part.added", 0, part=reasoning_part(""))]
        self._text += delta
        return [*begun, self._at("reasoning_text.delta", 0, delta=delta)]

    def summary(self, delta: str) -> Events:
        empty = self._summary_at("reasoning_summary_part.added", part=_summary_part(""))
        begun: Events = [] if self._summary else [empty]
        self._summary += delta
        return [*begun, self._summary_at("reasoning_summary_text.delta", delta=delta)]

    def close(self) -> Events:
        events: Events = []
        if self._summary:
            events.append(self._summary_at("reasoning_summary_text.done", text=self._summary))
            events.append(self._summary_at("reasoning_summary_part.done", part=_summary_part(self._summary)))
        if self._text:
            events.append(self._at("reasoning_text.done", 0, text=self._text))
            events.append(self._at("content_part.done", 0, part=reasoning_part(self._text)))
        return events

    @property
    def whole(self) -> dict[str, Any]:
        summary = [_summary_part(self._summary)] if self._summary else []
        return {**self.begun, "summary": summary, "content": [reasoning_part(self._text)] if self._text else []}

    def _at(self, name: str, content_index: int, **fields: Any) -> dict[str, Any]:
        return _event(name, self.index, self.begun, content_index=content_index, **fields)

    def _summary_at(self, name: str, **fields: Any) -> dict[str, Any]:
        return _event(name, self.index, self.begun, summary_index=0, **fields)


class MessageItem:
    """The answer."""

    def __init__(self, stamp: Stamp, index: int) -> None:
        self.index = index
        self.begun = _numbered(message_item(stamp), index)
        self._opened = False
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []

    def text(self, delta: str, logprobs: Sequence[dict[str, Any]]) -> Events:
        begun = self._open()
        self._text += delta
        self._logprobs += logprobs
        return [*begun, self._at("output_text.delta", delta=delta, logprobs=list(logprobs))]

    def close(self) -> Events:
        return [
            *self._open(),
            self._at("output_text.done", text=self._text, logprobs=self._logprobs),
            self._at("content_part.done", part=text_part(self._text, self._logprobs)),
        ]

    @property
    def whole(self) -> dict[str, Any]:
        return {**self.begun, "status": "completed", "content": [text_part(self._text, self._logprobs)]}

    def _open(self) -> Events:
        opened, self._opened = self._opened, True
        return [] if opened else [self._at("content_part.added", part=text_part("", ()))]

    def _at(self, name: str, **fields: Any) -> dict[str, Any]:
        return _event(name, self.index, self.begun, content_index=0, **fields)


class CallItem:
    """A call of a tool, which is told at once."""

    def __init__(self, stamp: Stamp, index: int, call_id: str, call: Call) -> None:
        self.index = index
        self.whole = call_item(stamp, index, call_id, call)
        self.begun = {**self.whole, "status": "in_progress", "arguments": ""}

    def close(self) -> Events:
        arguments = self.whole["arguments"]
        return [
            self._at("function_call_arguments.delta", delta=arguments),
            self._at("function_call_arguments.done", name=self.whole["name"], arguments=arguments),
        ]

    def _at(self, event: str, /, **fields: Any) -> dict[str, Any]:
        return _event(event, self.index, self.begun, **fields)


Item = ReasoningItem | MessageItem | CallItem


def _numbered(item: dict[str, Any], index: int) -> dict[str, Any]:
    """With an id that no other item of the output has: the first two are a reasoning and a message."""
    return item if index < 2 else {**item, "id": f"{item['id']}_{index}"}


def _summary_part(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _event(name: str, index: int, item: dict[str, Any], /, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{name}", "output_index": index, "item_id": item["id"], **fields}
