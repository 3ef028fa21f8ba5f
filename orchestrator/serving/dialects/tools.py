"""Tools of a request, and the calls of an answer, in the words of each dialect."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from orchestrator.core.tools import Call, ToolChoice, Tools
from orchestrator.serving.dialects.contract import Stamp
from orchestrator.serving.errors import invalid
from orchestrator.serving.orders import Choice
from orchestrator.session.tool_arguments import MOST_KEYWORDS, check_parameters, num_keywords

_WORDS = ("none", "auto", "required")
Asked = tuple[ToolChoice, str | None]
"""How tools may be called, and the name of the one function that is to be."""


class NamedFunction(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # a call that does not fit the parameters is none; one that is forced always fits

    @property
    def told(self) -> dict[str, Any]:
        """As chat templates have it."""
        fields = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {
            "type": "function",
            "function": {name: value for name, value in fields.items() if value is not None},
        }


class ChatTool(BaseModel):
    """As `/v1/chat/completions` has it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["function"]
    function: NamedFunction


class ResponseTool(NamedFunction):
    """As `/v1/responses` has it."""

    type: Literal["function"]


def _chat_choice(given: Any) -> Any:
    match given:
        case {"type": "function", "function": {"name": str() as name, **more}, **beside} if not more and not beside:
            return ToolChoice.NAMED, name
    return _word(given, '{"type": "function", "function": {"name": ...}}')


def _response_choice(given: Any) -> Any:
    match given:
        case {"type": "function", "name": str() as name, **beside} if not beside:
            return ToolChoice.NAMED, name
    return _word(given, '{"type": "function", "name": ...}')


def _word(given: Any, other: str) -> Any:
    if isinstance(given, str) and given in _WORDS:
        return ToolChoice(given), None
    raise ValueError(f"wanted {', '.join(_WORDS)} or {other}, got {given!r:.100}")


_NAME = {"type": "string"}
_FUNCTION = {"type": "object", "required": ["name"], "properties": {"name": _NAME}, "additionalProperties": False}


def _choice_schema(key: str, value: Mapping[str, Any]) -> WithJsonSchema:
    named = {
        "type": "object",
        "required": ["type", key],
        "properties": {"type": {"const": "function"}, key: value},
        "additionalProperties": False,
    }
    return WithJsonSchema({"anyOf": [{"enum": list(_WORDS)}, named]})


ChatToolChoice = Annotated[Any, BeforeValidator(_chat_choice), _choice_schema("function", _FUNCTION)]
ResponseToolChoice = Annotated[Any, BeforeValidator(_response_choice), _choice_schema("name", _NAME)]
"""Both are `Asked` once they are read."""


def asked_tools(
    functions: Sequence[NamedFunction], asked: Asked | None, parallel: bool | None, strict_in: str
) -> Tools | None:
    """The tools of a request; None where there are none. `strict_in` is where a function is, behind its `tools[i]`.
    Raises ApiError."""
    choice, name = asked or (ToolChoice.AUTO, None)
    if not functions:
        if choice in (ToolChoice.NONE, ToolChoice.AUTO):
            return None
        raise invalid("tool_choice: there are no tools to call", param="tool_choice")
    names = [function.name for function in functions]
    for index, own in enumerate(names):
        if own in names[:index]:
            raise invalid(f"tools[{index}]: {own!r} is the name of an earlier one, too", param=f"tools[{index}]")
    if name is not None and name not in names:
        raise invalid(f"tool_choice: got {name[:100]!r}, wanted one of {', '.join(names)[:1000]}", param="tool_choice")
    unheld = choice is ToolChoice.AUTO  # a call that is forced fits its parameters as it is written
    strict = {index: function for index, function in enumerate(functions) if function.strict and unheld}
    size = sum(num_keywords(function.parameters or {}) for function in strict.values())
    if size > MOST_KEYWORDS:
        raise invalid(
            f"tools: parameters of strict functions have {size:,} keywords, wanted at most {MOST_KEYWORDS:,}",
            param="tools",
        )
    for index, function in strict.items():
        try:
            check_parameters(function.parameters or {})
        except ValueError as error:
            param = f"tools[{index}]{strict_in}.strict"
            raise invalid(
                f"{param}: {error}; it goes with a tool_choice of required or a function", param=param
            ) from error
    return Tools(
        given=tuple(function.told for function in functions),
        choice=choice,
        name=name,
        parallel=parallel is not False,
        strict=frozenset(function.name for function in strict.values()),
    )


def schema_of(tools: Tools | None, asked: str | None, format_in: str) -> tuple[str | None, str]:
    """The JSON schema that answers are held to, and the field that it comes from. Raises ApiError for two of them."""
    if tools is None or not tools.shown:
        return asked, format_in
    if asked is not None:
        raise invalid(f"{format_in}: not with tools, whose calls have a form of their own", param=format_in)
    return tools.json_schema, "tool_choice"


def calls_of(choice: Choice, index: int, stamp: Stamp) -> list[tuple[str, Call]]:
    """The calls of an answer, each with an id that no other of the response has."""
    calling = choice.trajectory.calling
    calls = () if calling is None else calling.calls
    return [(f"call_{stamp.id}_{index}_{number}", call) for number, call in enumerate(calls)]


def content_of(choice: Choice) -> str:
    """What an answer says in words: all of it, or what stands before its calls."""
    calling = choice.trajectory.calling
    if calling is None:
        return choice.trajectory.reply
    return calling.content if calling.content.strip() else ""


def told_tools(tools: Tools | None) -> dict[str, Any]:
    """As a response of `/v1/responses` says them again."""
    if tools is None:
        return {"parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
    named = {"type": "function", "name": tools.name}
    forced = tools.json_schema is not None
    empty = {"description": None, "parameters": None}
    return {
        "parallel_tool_calls": tools.parallel,
        "tool_choice": named if tools.choice is ToolChoice.NAMED else tools.choice.value,
        "tools": [
            {
                "type": "function",
                **empty,
                **tool["function"],
                "strict": forced or tool["function"]["name"] in tools.strict,
            }
            for tool in tools.given
        ],
    }
