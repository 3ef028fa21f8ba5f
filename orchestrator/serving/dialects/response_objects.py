"""The objects of `/v1/responses`: the response, and the items of its output."""

from collections.abc import Sequence
from typing import Any

from orchestrator.core.nouns import Step
from orchestrator.core.tools import Call
from orchestrator.serving.dialects.contract import Stamp
from orchestrator.serving.dialects.formats import told_format
from orchestrator.serving.dialects.logprobs import chat_logprobs, tokens_of_steps
from orchestrator.serving.dialects.reports import choice_report, report, usage_of
from orchestrator.serving.dialects.tools import calls_of, content_of, told_tools
from orchestrator.serving.errors import ApiError
from orchestrator.serving.orders import Answered, Choice, Order, shows_tools


def response_object(
    order: Order,
    stamp: Stamp,
    *,
    output: Sequence[dict[str, Any]] = (),
    answered: Answered | None = None,
    error: ApiError | None = None,
) -> dict[str, Any]:
    """Without an answer it is in progress, unless it failed."""
    [problem] = order.problems
    status, incomplete = "in_progress", None
    if error is not None:
        status = "failed"
    elif answered is not None:
        cut = answered.choices[0].finish_reason == "length"
        status, incomplete = ("incomplete", {"reason": "max_output_tokens"}) if cut else ("completed", None)
    made = {
        "id": f"resp_{stamp.id}",
        "object": "response",
        "created_at": stamp.created,
        "status": status,
        "error": None if error is None else {"code": "server_error", "message": error.message},
        "incomplete_details": incomplete,
        "instructions": None,
        "max_output_tokens": order.sampling.max_tokens,
        "model": order.model,
        "output": list(output),
        "previous_response_id": None,
        "reasoning": {"effort": order.effort, "summary": None},
        "store": False,
        "temperature": order.sampling.temperature,
        "text": {"format": told_format(None if shows_tools(problem) else problem.json_schema)},
        **told_tools(problem.tools),
        "top_logprobs": order.logprobs or 0,
        "top_p": order.sampling.top_p,
        "truncation": "disabled",
        "usage": None if answered is None else _usage(answered),
        "metadata": {},
    }
    return made if answered is None else {**made, "headrace": _report(order, answered)}


def _usage(answered: Answered) -> dict[str, Any]:
    usage = usage_of([answered])
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.sampled_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.total_tokens,
    }


def _report(order: Order, answered: Answered) -> dict[str, Any]:
    told = choice_report(answered.choices[0])
    return {**report(order, answered), "uncertainty": told["uncertainty"], "steps": told["steps"]}


def output_of(order: Order, answered: Answered, stamp: Stamp) -> list[dict[str, Any]]:
    """The thinking, if there is any, the message, and the calls of tools: where there are some, and nothing is said,
    there is no message."""
    [choice] = answered.choices
    items: list[dict[str, Any]] = []
    if choice.trajectory.thoughts:
        items.append({**reasoning_item(stamp), "content": [reasoning_part(choice.trajectory.thoughts)]})
    parts = [part for step, part in parts_of(order, choice) if not step.thinking]
    logprobs = [token for part in parts for token in part]
    calls = calls_of(choice, 0, stamp)
    if (text := content_of(choice)) or not calls:
        items.append({**message_item(stamp), "status": "completed", "content": [text_part(text, logprobs)]})
    for call_id, call in calls:
        items.append(call_item(stamp, len(items), call_id, call))
    return items


def parts_of(order: Order, choice: Choice) -> list[tuple[Step, list[dict[str, Any]]]]:
    """The steps, each with the log-probabilities of its tokens, where these are told."""
    steps = choice.trajectory.steps
    if order.logprobs is None or choice.read is None:
        return [(step, []) for step in steps]
    tokens = tokens_of_steps(choice)
    told = [chat_logprobs(own, order.logprobs)["content"] for own in tokens]
    return list(zip(steps, told, strict=True))


def reasoning_item(stamp: Stamp) -> dict[str, Any]:
    return {"id": f"rs_{stamp.id}", "type": "reasoning", "summary": [], "content": []}


def message_item(stamp: Stamp) -> dict[str, Any]:
    return {"id": f"msg_{stamp.id}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def call_item(stamp: Stamp, index: int, call_id: str, call: Call) -> dict[str, Any]:
    """`index` is its place in the output."""
    named = {"call_id": call_id, "name": call.name, "arguments": call.arguments}
    return {"id": f"fc_{stamp.id}_{index}", "type": "function_call", "status": "completed", **named}


def reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def text_part(text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
