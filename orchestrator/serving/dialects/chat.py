"""`/v1/chat/completions`."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.core.nouns import Message, Problem, ToolCall
from orchestrator.core.search_events import SearchEvent, TextWritten, as_json
from orchestrator.serving.dialects.contract import ServingContext, Stamp
from orchestrator.serving.dialects.fields import NEUTRAL, CommonRequest, Stops, read_request
from orchestrator.serving.dialects.formats import ResponseFormat
from orchestrator.serving.dialects.logprobs import chat_logprobs, tokens_of_steps
from orchestrator.serving.dialects.messages import CONTENT, check_arguments, checked_template, joined, known_role
from orchestrator.serving.dialects.ordering import capped_tokens, make_order, template_of
from orchestrator.serving.dialects.reports import choice_report, openai_usage, report, untold
from orchestrator.serving.dialects.tools import ChatTool, ChatToolChoice, asked_tools, calls_of, content_of, schema_of
from orchestrator.serving.errors import ApiError, invalid
from orchestrator.serving.events import DONE, Ended, data
from orchestrator.serving.narration import in_words
from orchestrator.serving.orders import Answered, Choice, Order

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **NEUTRAL,
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
}


class Function(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    arguments: str

    @model_validator(mode="after")
    def _is_json(self) -> "Function":
        check_arguments(self.arguments)
        return self


class FunctionCall(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: str
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(BaseModel):
    """One message. Whatever else a client repeats from an earlier answer must be empty."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    name: str | None = None  # a label: chat templates have no place for it
    content: Annotated[str | None, BeforeValidator(joined), CONTENT] = None
    reasoning: str | None = None  # of an earlier answer: models are not shown it again
    tool_calls: list[FunctionCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> "ChatMessage":
        for name, value in (self.model_extra or {}).items():
            if value not in (None, []):
                raise ValueError(f"{name[:100]} is not supported")
        for name, role in (("tool_calls", "assistant"), ("reasoning", "assistant"), ("tool_call_id", "tool")):
            if getattr(self, name) and self.role != role:
                raise ValueError(f"{name} is not supported in a message of role {self.role}")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("tool_call_id is missing")
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        return self

    @property
    def message(self) -> Message:
        return Message(
            role=known_role(self.role),
            content=self.content or "",
            tool_calls=tuple(
                ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in self.tool_calls or ()
            ),
            tool_call_id=self.tool_call_id,
        )


class ChatRequest(CommonRequest):
    """What is honoured of OpenAI's request."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: Stops = Field(default_factory=list)
    n: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    response_format: ResponseFormat | None = None
    tools: list[ChatTool] = Field(default_factory=list)
    tool_choice: ChatToolChoice = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Chat:
    """Implements `Dialect`."""

    path = "/v1/chat/completions"
    request = ChatRequest
    neutral = _NEUTRAL

    def order(self, given: dict[str, Any], request_id: str, context: ServingContext) -> Order:
        request = read_request(ChatRequest, given, neutral=self.neutral, hints={})
        limits = context.config.limits
        if len(request.messages) > limits.max_messages:
            raise invalid(f"messages: at most {limits.max_messages}, got {len(request.messages)}", param="messages")
        if request.top_logprobs is not None and not request.logprobs:
            raise invalid("top_logprobs: only with logprobs=true", param="top_logprobs")
        template = checked_template(request.chat_template_kwargs)
        functions = [tool.function for tool in request.tools]
        tools = asked_tools(functions, request.tool_choice, request.parallel_tool_calls, ".function")
        asked_schema = None if request.response_format is None else request.response_format.json_schema
        json_schema, format_in = schema_of(tools, asked_schema, "response_format")
        problem = Problem(
            id="request",  # the same for all, so that equal seeds mean equal draws
            messages=tuple(message.message for message in request.messages),
            template=template_of(request.reasoning_effort, template, context),
            json_schema=json_schema,
            tools=tools,
        )
        return make_order(
            request,
            request_id,
            context,
            problems=[problem],
            asked_in="messages",
            format_in=format_in,
            max_tokens=_max_tokens(request, context),
            stop=request.stop,
            effort=request.reasoning_effort,
            choices=request.n,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        )

    def body(self, order: Order, found: Sequence[Answered], stamp: Stamp) -> dict[str, Any]:
        [answered] = found
        return {
            "id": f"chatcmpl-{stamp.id}",
            "object": "chat.completion",
            "created": stamp.created,
            "model": order.model,
            "choices": [_choice(order, index, choice, stamp) for index, choice in enumerate(answered.choices)],
            "usage": openai_usage(found),
            "headrace": report(order, answered),
        }

    def writer(self, order: Order, stamp: Stamp) -> "ChatWriter":
        return ChatWriter(order, stamp)


class ChatWriter:
    """Implements `Writer`: the author at once, the answer as it is written or by steps, the end with its report, the
    usage."""

    def __init__(self, order: Order, stamp: Stamp) -> None:
        self._order = order
        self._stamp = stamp
        self._found: list[Answered] = []
        self._num_told = 0  # characters of the answer, thinking included

    def begun(self) -> Iterator[str]:
        yield self._chunk(0, {"role": "assistant", "content": ""})

    def text(self, index: int, text: TextWritten) -> Iterator[str]:
        self._num_told += len(text.text)
        yield self._chunk(0, {"reasoning" if text.thinking else "content": text.text}, happened=[text])

    def progress(self, index: int, search_events: Sequence[SearchEvent]) -> Iterator[str]:
        words = in_words(search_events) if self._order.narrates else ""
        yield self._chunk(0, {"reasoning": words} if words else {}, happened=search_events)

    def ended(self, event: Ended) -> Iterator[str]:
        self._found.append(event.answered)
        order = self._order
        for index, choice in enumerate(event.answered.choices):
            if index:
                yield self._chunk(index, {"role": "assistant", "content": ""})
            if choice.trajectory.calling is not None:
                yield from self._calling(index, choice)
                continue
            tokens = None if choice.read is None or order.logprobs is None else tokens_of_steps(choice)
            for number, (step, text) in enumerate(untold(choice.trajectory.steps, self._num_told)):
                if text:
                    told = None
                    if tokens is not None and not step.thinking:
                        told = chat_logprobs(tokens[number], order.logprobs or 0)
                    yield self._chunk(index, {"reasoning" if step.thinking else "content": text}, told)
            yield self._finished(index, choice)

    def _calling(self, index: int, choice: Choice) -> Iterator[str]:
        """An answer that calls tools: its thinking, its words, then each call and its arguments."""
        if thoughts := choice.trajectory.thoughts:
            yield self._chunk(index, {"reasoning": thoughts})
        if content := content_of(choice):
            yield self._chunk(index, {"content": content})
        for number, told in enumerate(_told_calls(choice, index, self._stamp)):
            function = {"name": told["function"]["name"], "arguments": ""}
            yield self._chunk(index, {"tool_calls": [{"index": number, **told, "function": function}]})
            arguments = {"arguments": told["function"]["arguments"]}
            yield self._chunk(index, {"tool_calls": [{"index": number, "function": arguments}]})
        yield self._finished(index, choice)

    def _finished(self, index: int, choice: Choice) -> str:
        return self._chunk(index, {}, finish=choice, last=index + 1 == len(self._found[-1].choices))

    def failed(self, error: ApiError) -> Iterator[str]:
        yield data(error.body)
        yield DONE

    def closed(self) -> Iterator[str]:
        if self._order.include_usage:
            yield data({**self._chunk_of([]), "usage": openai_usage(self._found)})
        yield DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish: Choice | None = None,
        last: bool = False,
        happened: Sequence[SearchEvent] = (),
    ) -> str:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        if finish is not None:
            choice |= {"finish_reason": finish.finish_reason, "headrace": choice_report(finish)}
        chunk = self._chunk_of([choice])
        if last:
            chunk["headrace"] = report(self._order, self._found[-1])
        elif happened and self._order.events:
            chunk["headrace"] = {"events": [as_json(one) for one in happened]}
        return data(chunk)

    def _chunk_of(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {
            "id": f"chatcmpl-{self._stamp.id}",
            "object": "chat.completion.chunk",
            "created": self._stamp.created,
            "model": self._order.model,
            "choices": choices,
        }
        return {**chunk, "usage": None} if self._order.include_usage else chunk


def _max_tokens(request: ChatRequest, context: ServingContext) -> int | None:
    asked = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(asked) > 1:
        raise invalid("max_completion_tokens: differs from max_tokens, its older name", param="max_completion_tokens")
    name = "max_completion_tokens" if request.max_tokens is None else "max_tokens"
    return capped_tokens(name, next(iter(asked), None), context)


def _choice(order: Order, index: int, choice: Choice, stamp: Stamp) -> dict[str, Any]:
    trajectory = choice.trajectory
    reasoning = {"reasoning": trajectory.thoughts} if trajectory.thoughts else {}  # vLLM's field
    logprobs = None
    if choice.read is not None and order.logprobs is not None:
        steps = zip(trajectory.steps, tokens_of_steps(choice), strict=True)
        tokens = [token for step, tokens in steps if not step.thinking for token in tokens]
        logprobs = chat_logprobs(tokens, order.logprobs)
    told = _told_calls(choice, index, stamp)
    said: dict[str, Any] = {"content": content_of(choice)}
    if told:
        said = {"content": said["content"] or None, "tool_calls": told}
    return {
        "index": index,
        "message": {"role": "assistant", **said, "refusal": None, **reasoning},
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
        "headrace": choice_report(choice),
    }


def _told_calls(choice: Choice, index: int, stamp: Stamp) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call_id, call in calls_of(choice, index, stamp)
    ]
