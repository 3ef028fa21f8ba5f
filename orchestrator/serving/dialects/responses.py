"""`/v1/responses`: text in and out. Nothing is stored, so each request brings its whole conversation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.core.nouns import Message, Problem, ToolCall
from orchestrator.serving.dialects.contract import ServingContext, Stamp
from orchestrator.serving.dialects.fields import NEUTRAL, CommonRequest, read_request
from orchestrator.serving.dialects.formats import Text
from orchestrator.serving.dialects.messages import CONTENT, check_arguments, checked_template, joined, known_role
from orchestrator.serving.dialects.ordering import capped_tokens, make_order, template_of
from orchestrator.serving.dialects.response_objects import output_of, response_object
from orchestrator.serving.dialects.response_writer import ResponseWriter
from orchestrator.serving.dialects.tools import ResponseTool, ResponseToolChoice, asked_tools, schema_of
from orchestrator.serving.errors import invalid
from orchestrator.serving.orders import Answered, Order

_LOGPROBS = "message.output_text.logprobs"
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **NEUTRAL,
    "max_tool_calls": (),
    "truncation": ("disabled",),
    "background": (False,),
    "store": (False,),
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
}
_HINTS = {
    "store": "nothing is stored",
    "previous_response_id": "nothing is stored, send the whole conversation as input",
    "conversation": "nothing is stored, send the whole conversation as input",
}


class InputItem(BaseModel):
    """A message, a call of a tool, what it returned, or the reasoning of an earlier answer, which models are not shown
    again."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["message", "reasoning", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] = "user"
    content: Annotated[str, BeforeValidator(joined), CONTENT] = ""
    id: str | None = None
    status: str | None = None
    summary: list[Any] | None = None
    encrypted_content: str | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Annotated[str | None, BeforeValidator(joined), CONTENT] = None

    @model_validator(mode="after")
    def _has_its_fields(self) -> "InputItem":
        wanted = {"function_call": ("call_id", "name", "arguments"), "function_call_output": ("call_id", "output")}
        own = wanted.get(self.type, ())
        for name in ("call_id", "name", "arguments", "output"):
            if (getattr(self, name) is None) == (name in own):
                missing = "is missing" if name in own else "is not supported"
                raise ValueError(f"{name} {missing} in an item of type {self.type}")
        if self.arguments is not None:
            check_arguments(self.arguments)
        return self


def _items(given: Any) -> Any:
    """A text is a user's message. What the reasoning says is not read."""
    if isinstance(given, str):
        return [{"content": given}]
    if not isinstance(given, list):
        return given
    return [{**item, "content": ""} if _is_reasoning(item) else item for item in given]


def _is_reasoning(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "reasoning"


class Reasoning(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    effort: str | None = None
    summary: str | None = None  # thinking is told as it is, or not at all
    generate_summary: str | None = None  # the older name of it


class ResponsesRequest(CommonRequest):
    """What is honoured of OpenAI's request."""

    input: Annotated[list[InputItem], BeforeValidator(_items, json_schema_input_type=str | list[InputItem])] = Field(
        min_length=1
    )
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    reasoning: Reasoning | None = None
    text: Text | None = None
    tools: list[ResponseTool] = Field(default_factory=list)
    tool_choice: ResponseToolChoice = None
    parallel_tool_calls: bool | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def messages(self) -> list[Message]:
        asked = _messages(self.input)
        return asked if self.instructions is None else [Message(role="system", content=self.instructions), *asked]

    @property
    def logprobs(self) -> int | None:
        asked = _LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
        return (self.top_logprobs or 0) if asked else None


def _messages(items: Sequence[InputItem]) -> list[Message]:
    """An assistant's calls belong to what it said before them."""
    messages: list[Message] = []
    for item in items:
        if item.type == "message":
            messages.append(Message(role=known_role(item.role), content=item.content))
        elif item.type == "function_call_output":
            messages.append(Message(role="tool", content=item.output or "", tool_call_id=item.call_id))
        elif item.type == "function_call":
            if not messages or messages[-1].role != "assistant":
                messages.append(Message(role="assistant", content=""))
            call = ToolCall(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")
            messages[-1] = replace(messages[-1], tool_calls=(*messages[-1].tool_calls, call))
    return messages


class Responses:
    """Implements `Dialect`."""

    path = "/v1/responses"
    request = ResponsesRequest
    neutral = _NEUTRAL

    def order(self, given: dict[str, Any], request_id: str, context: ServingContext) -> Order:
        request = read_request(ResponsesRequest, given, neutral=self.neutral, hints=_HINTS)
        most = context.config.limits.max_messages
        if not 0 < len(request.messages) <= most:
            raise invalid(f"input: wanted 1 to {most} messages, got {len(request.messages)}", param="input")
        effort = None if request.reasoning is None else request.reasoning.effort
        template = checked_template(request.chat_template_kwargs)
        tools = asked_tools(request.tools, request.tool_choice, request.parallel_tool_calls, "")
        asked_schema = None if request.text is None else request.text.json_schema
        json_schema, format_in = schema_of(tools, asked_schema, "text.format")
        problem = Problem(
            id="request",  # the same for all, so that equal seeds mean equal draws
            messages=tuple(request.messages),
            template=template_of(effort, template, context),
            json_schema=json_schema,
            tools=tools,
        )
        return make_order(
            request,
            request_id,
            context,
            problems=[problem],
            asked_in="input",
            format_in=format_in,
            max_tokens=capped_tokens("max_output_tokens", request.max_output_tokens, context),
            stop=(),
            effort=effort,
            logprobs=request.logprobs,
        )

    def body(self, order: Order, found: Sequence[Answered], stamp: Stamp) -> dict[str, Any]:
        [answered] = found
        return response_object(order, stamp, output=output_of(order, answered, stamp), answered=answered)

    def writer(self, order: Order, stamp: Stamp) -> ResponseWriter:
        return ResponseWriter(order, stamp)
