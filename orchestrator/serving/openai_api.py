"""Chat completions on the wire: what is accepted of a request, and how an answer is worded. Pure.

What a search can't honour is refused by name; nothing is ignored silently but labels such as `user`.
"""

import dataclasses
import difflib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Message, SearchResult, Status, Trajectory
from orchestrator.core.protocols import Sampling
from orchestrator.serving.catalog import Catalog, NamedStrategy
from orchestrator.serving.config import Limits
from orchestrator.serving.errors import ApiError, invalid

# OpenAI's parameters that a search has no use for, with the values that ask for nothing (null always does).
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "stop": ("", []),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
_HINTS = {
    "n": "one choice is returned, the best found; to search among more candidates set headrace.n",
    "stop": "a search ends where the model ends its answer",
}
_SEED_BITS = 53  # a number of JavaScript holds no more exactly, so that any client can send the seed again
_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")  # they ask for nothing


def _joined(content: Any) -> Any:
    """A message's content as one string."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError("wanted a string or a list of text parts")
        texts.append(part["text"])
    return "".join(texts)


def _role(role: Any) -> Any:
    """OpenAI's newer name of the system role is read as the older one."""
    return "system" if role == "developer" else role


class ChatMessage(BaseModel):
    """One message. Whatever else a client repeats from an earlier answer must be empty."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_role)]
    name: str | None = None  # a label: chat templates have no place for it
    content: Annotated[str, BeforeValidator(_joined)]

    @model_validator(mode="after")
    def _nothing_else(self) -> "ChatMessage":
        for name, value in (self.model_extra or {}).items():
            if value not in (None, []):
                raise ValueError(f"{name[:100]} is not supported")
        return self


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # never sent


class ChatRequest(BaseModel):
    """What is honoured of OpenAI's request, and `headrace`: the strategy's name and parameters."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    headrace: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that was understood: what to search, how, and how to answer."""

    request_id: str  # in the log
    model: str
    messages: tuple[Message, ...]
    named: NamedStrategy
    sampling: Sampling
    seed: int
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a search found and what it cost."""

    result: SearchResult
    ledger: Ledger
    prompt_tokens: int  # of the prompt, once
    wall_s: float

    @property
    def chosen(self) -> Trajectory:
        assert self.result.chosen is not None
        return self.result.candidates[self.result.chosen].trajectory


def parse(body: bytes, *, request_id: str, catalog: Catalog, defaults: Sampling, limits: Limits) -> Order:
    """The order in a request's body. Raises ApiError."""
    request = _request(body)
    if len(request.messages) > limits.max_messages:
        raise invalid(f"messages: at most {limits.max_messages}, got {len(request.messages)}", param="messages")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options: only with stream=true", param="stream_options")
    return Order(
        request_id=request_id,
        model=request.model,
        messages=tuple(Message(role=message.role, content=message.content) for message in request.messages),
        named=catalog.resolve(request.model, request.headrace or {}),
        sampling=replace(
            defaults,
            temperature=defaults.temperature if request.temperature is None else request.temperature,
            top_p=defaults.top_p if request.top_p is None else request.top_p,
            max_tokens=_max_tokens(request, limits) or defaults.max_tokens,
        ),
        seed=random.getrandbits(_SEED_BITS) if request.seed is None else request.seed,
        stream=bool(request.stream),
        include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
    )


def _request(body: bytes) -> ChatRequest:
    try:
        given = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise invalid(f"the body must be a JSON object, got {type(given).__name__}")
    for name, neutral in _NEUTRAL.items():
        value = given.pop(name, None)
        if value is not None and value not in neutral:
            why = _HINTS.get(name, "leave it out")
            raise invalid(f"{name}: {value!r:.100} is not supported: {why}", param=name, code="unsupported_parameter")
    for name in _LABELS:
        given.pop(name, None)
    try:
        return ChatRequest.model_validate(given)
    except ValidationError as error:
        raise _as_invalid(error) from None


def _as_invalid(error: ValidationError) -> ApiError:
    """The first complaint of several."""
    first = error.errors(include_url=False)[0]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")[:200]
    match first["type"]:
        case "missing":
            return invalid(f"{param} is missing", param=param, code="missing_required_parameter")
        case "extra_forbidden":
            near = difflib.get_close_matches(param, [*ChatRequest.model_fields, *_NEUTRAL], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return invalid(f"{param}: unknown parameter{hint}", param=param, code="unknown_parameter")
        case "value_error":
            return invalid(f"{param}: {first['ctx']['error']}", param=param)
        case _:
            reason = first["msg"][0].lower() + first["msg"][1:]
            return invalid(f"{param}: {reason}, got {first['input']!r:.100}", param=param)


def _max_tokens(request: ChatRequest, limits: Limits) -> int | None:
    asked = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(asked) > 1:
        raise invalid("max_completion_tokens: differs from max_tokens, its older name", param="max_completion_tokens")
    tokens = next(iter(asked), None)
    if tokens is not None and tokens > limits.max_tokens:
        param = "max_completion_tokens" if request.max_tokens is None else "max_tokens"
        raise invalid(f"{param}: must be <= {limits.max_tokens} on this server, got {tokens}", param=param)
    return tokens


# answers


def completion(order: Order, outcome: Answered, *, id: str, created: int) -> dict[str, Any]:
    """The body of a plain answer."""
    reasoning = {"reasoning": outcome.chosen.thoughts} if outcome.chosen.thoughts else {}  # vLLM's field
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": outcome.chosen.reply, "refusal": None, **reasoning},
        "logprobs": None,
        "finish_reason": finish_reason(outcome.chosen),
    }
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": order.model,
        "choices": [choice],
        "usage": usage(outcome),
        "headrace": report(order, outcome),
    }


def first_chunk(order: Order, *, id: str, created: int) -> dict[str, Any]:
    """The chunk that opens a stream: the answer's author."""
    return _chunk(order, id, created, {"role": "assistant", "content": ""})


def answer_chunks(order: Order, outcome: Answered, *, id: str, created: int) -> Iterator[dict[str, Any]]:
    """The chunks of the answer, a step each, the end with its report, and the usage where it was asked for."""
    for step in outcome.chosen.steps:
        if step.text:
            yield _chunk(order, id, created, {"reasoning" if step.thinking else "content": step.text})
    last = _chunk(order, id, created, {}, finish_reason(outcome.chosen))
    yield {**last, "headrace": report(order, outcome)}
    if order.include_usage:
        yield {**last, "choices": [], "usage": usage(outcome)}


def _chunk(order: Order, id: str, created: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    chunk = {
        "id": id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": order.model,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return {**chunk, "usage": None} if order.include_usage else chunk


def finish_reason(chosen: Trajectory) -> str:
    return "stop" if chosen.status is Status.FINISHED else "length"


def usage(outcome: Answered) -> dict[str, Any]:
    """The prompt once, and every token that was sampled for any candidate."""
    sampled, thinking = outcome.ledger.generated_tokens, outcome.ledger.thinking_tokens
    details = {"completion_tokens_details": {"reasoning_tokens": thinking}} if thinking else {}
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": sampled,
        "total_tokens": outcome.prompt_tokens + sampled,
        **details,
    }


def report(order: Order, outcome: Answered) -> dict[str, Any]:
    """How the answer was found: what OpenAI's objects have no place for."""
    return {
        "strategy": order.named.name,
        "params": order.named.params,
        "seed": order.seed,
        "answer": outcome.result.answer,
        "score": outcome.result.score,
        "num_candidates": len(outcome.result.candidates),
        "end_reason": outcome.result.end_reason.value,
        "ledger": dataclasses.asdict(outcome.ledger),
        "wall_s": outcome.wall_s,
    }


def model_object(name: str, *, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "headrace"}
