"""Tools that a reply may call, and the calls in it. Pure: what a model's own words for a call are, a policy knows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}


class ToolChoice(StrEnum):
    """As in the OpenAI API."""

    NONE = "none"  # the tools are not shown
    AUTO = "auto"  # the model may call some
    REQUIRED = "required"  # it calls one or more
    NAMED = "named"  # it calls one function, which the request names


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The tools of a request, and how they may be called."""

    given: tuple[Mapping[str, Any], ...]  # functions as chat completions have them: {"type", "function": {...}}
    choice: ToolChoice = ToolChoice.AUTO
    name: str | None = None  # of the function that is to be called
    parallel: bool = True  # False: one call at most
    strict: frozenset[str] = frozenset()  # functions whose calls must fit their parameters

    @property
    def shown(self) -> bool:
        """Whether the model is told of them."""
        return self.choice is not ToolChoice.NONE

    def parameters(self, name: str) -> Mapping[str, Any] | None:
        """JSON schema of a function's arguments; None: of no function here, or of one that takes what is given."""
        functions = (tool["function"] for tool in self.given)
        found: Mapping[str, Any] | None = next(
            (one.get("parameters") for one in functions if one["name"] == name), None
        )
        return found

    @property
    def parsed(self) -> bool:
        """Whether calls stand in the model's own words, which a parser must know. Calls that are forced are JSON."""
        return self.choice is ToolChoice.AUTO

    @property
    def json_schema(self) -> str | None:
        """Of a reply whose calls are forced, as vLLM's own server has it; None where they are not."""
        functions = {tool["function"]["name"]: tool["function"].get("parameters") for tool in self.given}
        if self.choice is ToolChoice.NAMED:
            return json.dumps(functions[self.name] or _ANY_ARGUMENTS)
        if self.choice is not ToolChoice.REQUIRED:
            return None
        calls: list[dict[str, Any]] = []
        definitions: dict[str, Any] = {}
        for name, parameters in functions.items():
            arguments = dict(parameters or _ANY_ARGUMENTS)
            definitions |= arguments.pop("$defs", {})
            calls.append(
                {
                    "type": "object",
                    "properties": {"name": {"type": "string", "enum": [name]}, "parameters": arguments},
                    "required": ["name", "parameters"],
                    "additionalProperties": False,
                }
            )
        schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
        if not self.parallel:
            schema["maxItems"] = 1
        if definitions:
            schema["$defs"] = definitions
        return json.dumps(schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call in a reply. `arguments` is JSON, as the model wrote it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallingReply:
    """A reply that calls tools."""

    content: str  # what it says before
    calls: tuple[Call, ...]

    @property
    def answer(self) -> str:
        """The calls in one spelling, so that equal calls are equal answers."""
        told = [{"name": call.name, "arguments": _read(call.arguments)} for call in self.calls]
        return json.dumps(told, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a policy wrote after its thinking."""

    text: str
    token_ids: tuple[int, ...]
    ended: bool  # its last token may be one that ends a reply


def forced_calls(tools: Tools, text: str) -> CallingReply | None:
    """The calls of a reply that was held to the schema of the tools; None where it was cut short, or
    a server did not hold it to that."""
    try:
        told = json.loads(text)
    except ValueError:
        return None
    if tools.choice is ToolChoice.NAMED:
        assert tools.name is not None
        return CallingReply(content="", calls=(Call(name=tools.name, arguments=text.strip()),))
    calls = []
    for one in told if isinstance(told, list) else ():
        match one:
            case {"name": str() as name, "parameters": dict() as arguments}:
                calls.append(Call(name=name, arguments=json.dumps(arguments, ensure_ascii=False)))
            case _:
                return None
    return calling_reply(tools, None, calls)


def calling_reply(tools: Tools, content: str | None, calls: Sequence[Call]) -> CallingReply | None:
    """What a parser found; None where that is no call. Where one call may be made, it is the first."""
    if not calls:
        return None
    return CallingReply(content=content or "", calls=tuple(calls if tools.parallel else calls[:1]))


def _read(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:  # a parser hands on what is no JSON as it is
        return arguments
