"""From the common fields of a request to its order: strategy, sampling, budget and seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem
from orchestrator.serving.catalog import NamedStrategy, typed_value
from orchestrator.serving.config import Effort
from orchestrator.serving.dialects.contract import ServingContext
from orchestrator.serving.dialects.fields import CommonRequest
from orchestrator.serving.errors import invalid
from orchestrator.serving.orders import Order, shows_tools

_SEED_BITS = 53  # a number of JavaScript holds no more exactly, so that any client can send the seed again
_MOST_LOGPROBS = 20  # engines tell no more


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extra:
    """What `headrace` asks for."""

    strategy: Any
    params: Mapping[str, Any]
    budget: Budget
    return_trace: bool
    events: bool | Literal["text"]


def make_order(
    request: CommonRequest,
    request_id: str,
    context: ServingContext,
    *,
    problems: Sequence[Problem],
    asked_in: str,
    format_in: str | None = None,
    max_tokens: int | None,
    stop: Sequence[str],
    effort: str | None = None,
    choices: int | None = None,
    logprobs: int | None = None,
    echo: bool = False,
    writes: bool = True,
) -> Order:
    """`format_in` is the field that a problem's JSON schema comes from, `effort` the name of one of the configured
    efforts. Raises ApiError."""
    config = context.config
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options: only with stream=true", param="stream_options")
    extra = _extra(request.headrace or {}, config.limits.timeout_s)
    if extra.events and not request.stream:
        raise invalid("headrace.events: only with stream=true", param="headrace.events")
    asked = {"strategy": extra.strategy, **extra.params} if extra.strategy is not None else dict(extra.params)
    made = Effort() if effort is None else _effort(effort, config.efforts)
    if made.strategy is not None and extra.strategy is None and "@" not in request.model:
        asked = {"strategy": made.strategy, **made.params, **extra.params}
    named = context.catalog.resolve(request.model, asked)
    if any(problem.json_schema is not None for problem in problems):
        _check_format(named, format_in)
    if any(map(shows_tools, problems)):
        _check_tools(named, logprobs, context)
    most = named.strategy.most_candidates
    if choices is not None and most is not None and choices > most:
        raise invalid(f"n: {named.name} with these parameters makes {most} candidates, got n={choices}", param="n")
    if logprobs is not None:
        if logprobs > _MOST_LOGPROBS:
            raise invalid(f"logprobs: at most {_MOST_LOGPROBS} likeliest tokens, got {logprobs}", param="logprobs")
        if not context.catalog.tells_tokens:
            raise invalid("logprobs: this server's policy returns text only", param="logprobs")
    sampling = config.sampling
    return Order(
        request_id=request_id,
        model=request.model,
        problems=tuple(problems),
        asked_in=asked_in,
        named=named,
        sampling=replace(
            sampling,
            temperature=_or(request.temperature, sampling.temperature),
            top_p=_or(request.top_p, sampling.top_p),
            max_tokens=_or(max_tokens, sampling.max_tokens),
            stop=list(stop) or sampling.stop,
            max_thinking_tokens=_or(
                request.thinking_token_budget, _or(made.max_thinking_tokens, sampling.max_thinking_tokens)
            ),
        ),
        budget=config.request_budget.within(made.budget).within(extra.budget),
        seed=_or(request.seed, random.getrandbits(_SEED_BITS)),
        effort=effort,
        choices=_or(choices, 1),
        logprobs=logprobs,
        stream=bool(request.stream),
        include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
        return_trace=extra.return_trace,
        events=extra.events is not False,
        narrates=extra.events == "text",
        echo=echo,
        writes=writes,
    )


def _check_format(named: NamedStrategy, format_in: str | None) -> None:
    """Raises ApiError for a strategy that can't keep to a schema: that holds from the first token to the last."""
    if named.strategy.needs_tokens or named.strategy.restates:
        why = "changes the prompt" if named.strategy.restates else "goes on from parts of an answer, or stops it early"
        raise invalid(f"{format_in}: {named.name} {why}; wanted a strategy of whole completions", param=format_in)


def _check_tools(named: NamedStrategy, logprobs: int | None, context: ServingContext) -> None:
    """Raises ApiError where tools can't be called."""
    if not context.catalog.tells_tokens:
        raise invalid("tools: this server's policy is a chat API, which is not handed any", param="tools")
    if named.strategy.restates:
        raise invalid(f"tools: {named.name} changes the prompt; wanted a strategy that does not", param="tools")
    if logprobs is not None:
        raise invalid("logprobs: not with tools, whose calls are not told token by token", param="logprobs")


def template_of(effort: str | None, given: Mapping[str, Any] | None, context: ServingContext) -> dict[str, Any]:
    """Arguments of the chat template: the effort's, under those that were given."""
    configured = {} if effort is None else _effort(effort, context.config.efforts).chat_template_kwargs
    return {**configured, **(given or {})}


def capped_tokens(name: str, asked: int | None, context: ServingContext) -> int | None:
    """The asked `max_tokens`, under that name. Raises ApiError where it is over the server's own."""
    most = context.config.limits.max_tokens
    if asked is not None and asked > most:
        raise invalid(f"{name}: must be <= {most} on this server, got {asked}", param=name)
    return asked


def _extra(given: Mapping[str, Any], timeout_s: float) -> _Extra:
    """Other keys than these are the strategy's parameters, and so is a `budget` that is no object."""
    own = {key: value for key, value in given.items() if value is not None}
    strategy, params = own.pop("strategy", None), typed_value("headrace.params", dict[str, Any], own.pop("params", {}))
    budget = Budget()
    if isinstance(own.get("budget"), dict):
        budget = typed_value("headrace.budget", Budget, own.pop("budget"))
    if (deadline_s := own.pop("deadline_s", None)) is not None:
        deadline_s = typed_value("headrace.deadline_s", float, deadline_s)
        if not 0 < deadline_s <= timeout_s:
            param = "headrace.deadline_s"
            raise invalid(f"{param}: must be > 0 and <= {timeout_s:g} on this server, got {deadline_s:g}", param=param)
        budget = budget.within(Budget(seconds=deadline_s))
    return_trace = typed_value("headrace.return_trace", bool, own.pop("return_trace", False))
    events = typed_value("headrace.events", bool | Literal["text"], own.pop("events", False))
    return _Extra(strategy=strategy, params={**own, **params}, budget=budget, return_trace=return_trace, events=events)


def _effort(name: str, efforts: Mapping[str, Effort]) -> Effort:
    if name in efforts:
        return efforts[name]
    known = ", ".join(efforts)
    wanted = f"wanted one of {known}" if known else "and this server has none (efforts)"
    raise invalid(f"reasoning_effort: got {name[:100]!r}, {wanted}", param="reasoning_effort")


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given
