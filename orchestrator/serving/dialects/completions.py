"""`/v1/completions`: prompts as they stand, without a chat template. They may be echoed, with log-probabilities."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from orchestrator.core.nouns import Message, Problem
from orchestrator.core.search_events import SearchEvent, TextWritten, as_json
from orchestrator.serving.dialects.contract import ServingContext, Stamp
from orchestrator.serving.dialects.fields import NEUTRAL, CommonRequest, Stops, read_request
from orchestrator.serving.dialects.logprobs import completion_logprobs, tokens_of_steps
from orchestrator.serving.dialects.ordering import capped_tokens, make_order
from orchestrator.serving.dialects.reports import choice_report, openai_usage, report
from orchestrator.serving.errors import ApiError, invalid
from orchestrator.serving.events import DONE, Ended, data
from orchestrator.serving.orders import Answered, Order

_NEUTRAL: dict[str, tuple[Any, ...]] = {**NEUTRAL, "suffix": ("",), "best_of": (1,)}
_HINTS = {"best_of": "to search among more candidates set headrace.n"}


class CompletionRequest(CommonRequest):
    """What is honoured of OpenAI's request."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=None, ge=0)
    stop: Stops = Field(default_factory=list)
    n: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0)
    echo: bool | None = None

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each on its own."""
        match self.prompt:
            case str(text):
                return [text]
            case [int(), *_] as token_ids:
                return [tuple(token_ids)]  # type: ignore[arg-type]  # all of them are ids
            case prompts:
                return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts]  # type: ignore[arg-type]


class Completions:
    """Implements `Dialect`."""

    path = "/v1/completions"
    request = CompletionRequest
    neutral = _NEUTRAL

    def order(self, given: dict[str, Any], request_id: str, context: ServingContext) -> Order:
        request = read_request(CompletionRequest, given, neutral=self.neutral, hints=_HINTS)
        if not context.catalog.tells_tokens:
            raise invalid("prompt: this server's policy takes conversations only", param="prompt")
        if not request.prompts or not all(request.prompts):
            raise invalid("prompt: wanted a text or tokens, got nothing", param="prompt")
        most = context.config.limits.max_concurrent
        if len(request.prompts) > most:
            raise invalid(f"prompt: at most {most} in a request, got {len(request.prompts)}", param="prompt")
        if request.max_tokens == 0 and not request.echo:
            raise invalid("max_tokens: 0 only with echo=true", param="max_tokens")
        return make_order(
            request,
            request_id,
            context,
            problems=[_problem(index, prompt) for index, prompt in enumerate(request.prompts)],
            asked_in="prompt",
            max_tokens=capped_tokens("max_tokens", request.max_tokens, context) or None,
            stop=request.stop,
            choices=request.n,
            logprobs=request.logprobs,
            echo=bool(request.echo),
            writes=request.max_tokens != 0,
        )

    def body(self, order: Order, found: Sequence[Answered], stamp: Stamp) -> dict[str, Any]:
        body = {
            **_object(order, stamp),
            "choices": [
                _choice(order, answered, place, number * order.choices + place)
                for number, answered in enumerate(found)
                for place in range(len(answered.choices))
            ],
            "usage": openai_usage(found),
        }
        return {**body, **_reports(order, found)}

    def writer(self, order: Order, stamp: Stamp) -> "CompletionWriter":
        return CompletionWriter(order, stamp)


class CompletionWriter:
    """Implements `Writer`: an answer as it is written, or each choice as one chunk when its search has ended."""

    def __init__(self, order: Order, stamp: Stamp) -> None:
        self._order = order
        self._stamp = stamp
        self._found: dict[int, Answered] = {}
        self._num_told: Counter[int] = Counter()  # characters of each search's answer

    def begun(self) -> Iterator[str]:
        yield from ()

    def text(self, index: int, text: TextWritten) -> Iterator[str]:
        self._num_told[index] += len(text.text)
        yield self._chunk(_part(index, text.text), [text])

    def progress(self, index: int, search_events: Sequence[SearchEvent]) -> Iterator[str]:
        yield self._chunk(_part(index * self._order.choices, ""), search_events)

    def ended(self, event: Ended) -> Iterator[str]:
        order = self._order
        self._found[event.index] = event.answered
        for place in range(len(event.answered.choices)):
            told = _choice(order, event.answered, place, event.index * order.choices + place)
            told["text"] = told["text"][self._num_told[event.index] :]
            chunk = {**_object(order, self._stamp), "choices": [told]}
            if place + 1 == len(event.answered.choices):
                chunk["headrace"] = report(order, event.answered)
            yield data({**chunk, "usage": None} if order.include_usage else chunk)

    def _chunk(self, choice: dict[str, Any], happened: Sequence[SearchEvent]) -> str:
        chunk = {**_object(self._order, self._stamp), "choices": [choice]}
        if self._order.events:
            chunk["headrace"] = {"events": [as_json(one) for one in happened]}
        return data({**chunk, "usage": None} if self._order.include_usage else chunk)

    def failed(self, error: ApiError) -> Iterator[str]:
        yield data(error.body)
        yield DONE

    def closed(self) -> Iterator[str]:
        if self._order.include_usage:
            found = list(self._found.values())
            yield data({**_object(self._order, self._stamp), "choices": [], "usage": openai_usage(found)})
        yield DONE


def _part(index: int, text: str) -> dict[str, Any]:
    """Of a choice that is not at its end."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}


def _problem(index: int, prompt: str | tuple[int, ...]) -> Problem:
    """The first has the id of every request's problem, so that equal seeds mean equal draws."""
    text = prompt if isinstance(prompt, str) else ""
    return Problem(
        id=f"request/{index}" if index else "request", messages=(Message(role="user", content=text),), raw=prompt
    )


def _object(order: Order, stamp: Stamp) -> dict[str, Any]:
    return {"id": f"cmpl-{stamp.id}", "object": "text_completion", "created": stamp.created, "model": order.model}


def _reports(order: Order, found: Sequence[Answered]) -> dict[str, Any]:
    """One of a request of one prompt, else a list in the prompts' order."""
    reports = [report(order, answered) for answered in found]
    return {"headrace": reports[0] if len(reports) == 1 else reports}


def _choice(order: Order, answered: Answered, place: int, index: int) -> dict[str, Any]:
    """The choice at that place of a search's, and at `index` of the response."""
    choice = answered.choices[place]
    logprobs = None
    if choice.read is not None and order.logprobs is not None:
        own = [token for tokens in tokens_of_steps(choice) for token in tokens]
        logprobs = completion_logprobs([*(answered.prompt_read if order.echo else ()), *own])
    return {
        "index": index,
        "text": (_prompt_text(answered) if order.echo else "") + choice.trajectory.text,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
        "headrace": choice_report(choice),
    }


def _prompt_text(answered: Answered) -> str:
    raw = answered.problem.raw
    return raw if isinstance(raw, str) else "".join(token.text for token in answered.prompt_read if not token.special)
