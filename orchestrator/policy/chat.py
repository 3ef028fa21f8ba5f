"""Servers that return text and no token ids, as hosted chat APIs do: a policy of whole completions.

Nothing can be continued there, so strategies that go on from steps are refused. Tokens are counted as the server
reports them, and their ids are not known (`UNKNOWN_ID`). Samples that one call wants of a prompt are the `n` choices of
one request, so that the prompt is paid once; a server that gives fewer, or refuses, is asked for the others one by one.
Requests go to the address with the fewest under way; one that fails is left alone for a while, and its requests go
elsewhere.
"""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import nlargest
from typing import Any, Self

import openai

from orchestrator.core.confidence import step_confidence, token_confidence
from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import HeadraceError, PoolExhausted, ProblemError, ReplicaError, UserError
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Message, Problem, Prompt
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.policy.chat_replies import Choice, read_reply
from orchestrator.policy.engines.chat_template import as_dict, with_examples
from orchestrator.policy.engines.clients import MOST_SEED, api_key, as_response_format, one_line, open_client

log = logging.getLogger(__name__)

UNKNOWN_ID = -1  # of a token that the server counted
_REST_S = 30.0  # for an address that failed
_ENDLESS = 1 << 30  # tokens of a context whose length nobody told
_MOST_PROMPTS = 100_000  # remembered; a search needs its own until it ends
_MOST_CHOICES = 64  # of one request: some servers take no more than 128

Told = tuple[Segment, ...]  # a completion: its thinking, if there is any, and the reply


class _Lost(Exception):
    """An address has no answer."""


@dataclass(slots=True, eq=False)
class _Server:
    url: str
    client: openai.AsyncOpenAI
    running: int = 0
    rests_until: float = 0.0
    counters: dict[str, int] = field(default_factory=lambda: {"prompt_tokens": 0, "generated_tokens": 0})


class _Choices:
    """Samples of one prompt that differ in their seeds only. Owner of the request that they share."""

    def __init__(self, request: Generation) -> None:
        self.num = 0
        self._request = request  # the first one's
        self._asking: asyncio.Task[list[Told]] | None = None
        self._num_waiting = 0
        self._num_given = 0

    async def next(self, ask: Callable[[Generation, int], Coroutine[Any, Any, list[Told]]]) -> Told | None:
        """One of the choices, which the first caller asks for; None where the server gave fewer. Where every caller is
        cancelled the request is."""
        if self._asking is None:
            self._asking = asyncio.create_task(ask(self._request, self.num))
        self._num_waiting += 1
        try:
            choices = await asyncio.shield(self._asking)
        finally:
            self._num_waiting -= 1
            if not self._num_waiting:
                self._asking.cancel()
        self._num_given += 1
        return choices[self._num_given - 1] if self._num_given <= len(choices) else None


class ChatPolicy:
    """Implements `OpenPolicy`. Owner of the clients; see `open`."""

    thinking: ThinkingMarkers | None = None  # the server keeps it apart
    fingerprint = "unknown"

    def __init__(self, config: PolicyConfig, servers: Sequence[_Server]) -> None:
        """Use `open`."""
        self._config = config
        self._servers = servers
        self._places = asyncio.Semaphore(config.max_num_seqs * len(servers))
        self._taking_places = asyncio.Lock()  # who takes several has them all before the next may take one
        self._gives_choices = True  # as far as is known: more than one, where more are asked for
        self._prompts: OrderedDict[tuple[int, ...], Prompt] = OrderedDict()
        self._names = itertools.count()
        self.context_length = config.max_model_len or _ENDLESS
        weights = round((config.flops_per_token or 0.0) / 2)
        self.shape = ModelShape(weights_per_token=weights, head_weights=0, num_layers=0, attention_width=0)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: PolicyConfig) -> AsyncIterator[Self]:
        """Raises UserError where the environment does not hold the servers' key."""
        if config.flops_per_token is None:
            log.warning(
                "policy: FLOPs of %s are not known and not counted; wanted policy.flops_per_token", config.model
            )
        key = api_key(config.api_key_env, "policy.api_key_env")
        servers = [_Server(url, open_client(url, key, config.request_timeout_s)) for url in config.urls]
        try:
            yield cls(config, servers)
        finally:
            await asyncio.gather(*(server.client.close() for server in servers))

    @property
    def model(self) -> str:
        return self._config.model

    @property
    def num_ready(self) -> int:
        return sum(server.rests_until <= time.monotonic() for server in self._servers)

    async def stats(self) -> list[dict[str, int]]:
        return [
            {
                "replica": index,
                "running": server.running,
                "sampled_tokens": server.counters["generated_tokens"],
                "preemptions": 0,
                **server.counters,
            }
            for index, server in enumerate(self._servers)
        ]

    async def encode(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        """A name for each prompt: what its tokens are only the server knows. Raises ProblemError for one that is no
        conversation."""
        if any(problem.raw is not None for problem in problems):
            raise ProblemError(f"policy: {self.model} takes conversations only, got a prompt as it stands")
        names: list[tuple[int, ...]] = [(UNKNOWN_ID - 1 - next(self._names),) for _ in problems]
        for name, problem in zip(names, problems, strict=True):
            messages = with_examples(problem.messages, self._config)
            self._prompts[name] = replace(problem.prompt, messages=messages)
        while len(self._prompts) > _MOST_PROMPTS:
            self._prompts.popitem(last=False)
        return names

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        raise UserError(f"policy: {self.model} returns text only, so nothing can be injected: got {texts[0]!r}")

    def generate(self, requests: Sequence[Generation]) -> "ChatStream":
        """Raises UserError for what needs token ids."""
        for request in requests:
            if request.reads is not None:
                raise UserError(f"policy: {self.model} returns text only, and reads back no log-probabilities")
            if request.words:
                raise UserError(
                    f"policy: {self.model} is asked for text only, and not what else was likely; wanted "
                    "verifier.options.score: verdict, or verifier.options.url for a server that tells log-probabilities"
                )
            if request.prefix_ids not in self._prompts or request.until_step or request.floor is not None:
                raise UserError(
                    f"policy: {self.model} returns text and no token ids, so what it wrote can't be continued or "
                    "stopped; wanted a strategy of whole completions"
                )
        most = min(_MOST_CHOICES, self._config.max_num_seqs) if self._gives_choices else 1
        open_: dict[Generation, _Choices] = {}
        completions = []
        for request in requests:
            alike = replace(request, seed=0)
            if alike not in open_ or open_[alike].num == most:
                open_[alike] = _Choices(request)
            open_[alike].num += 1
            completions.append(self._sample(request, open_[alike]))
        return ChatStream(completions)

    async def _sample(self, request: Generation, choices: _Choices) -> Told:
        """Raises as `_complete` does."""
        refused: ProblemError | None = None
        if choices.num > 1:
            try:
                if (told := await choices.next(self._complete)) is not None:
                    return told
                self._ask_one_by_one("it gave fewer")
            except ProblemError as error:  # of the number, or of the prompt
                refused = error
        [told] = await self._complete(request, 1)
        if refused is not None:
            self._ask_one_by_one(str(refused))
        return told

    def _ask_one_by_one(self, why: str) -> None:
        if self._gives_choices:
            self._gives_choices = False
            log.warning(
                "policy: %s gives one choice a request, so each sample pays for the prompt: %s", self.model, why
            )

    @asynccontextmanager
    async def _admitted(self, num: int) -> AsyncIterator[None]:
        """Waits until so many sequences may run."""
        taken = 0
        try:
            async with self._taking_places:
                while taken < num:
                    await self._places.acquire()
                    taken += 1
            yield
        finally:
            for _ in range(taken):
                self._places.release()

    async def _complete(self, request: Generation, num: int) -> list[Told]:
        """Up to `num` completions; just one where one is asked for.

        Raises ProblemError for a request that is refused, UserError, and PoolExhausted where no address answers.
        """
        began = time.monotonic()
        async with self._admitted(num):
            queue_s = time.monotonic() - began
            why = ""
            for attempt in range((1 + self._config.max_restarts) * len(self._servers)):
                if attempt and attempt % len(self._servers) == 0:  # none answered: they may have too much to do
                    await asyncio.sleep(_REST_S)
                server = self._next()
                try:
                    return await self._asked(server, request, num, queue_s=queue_s)
                except _Lost as error:
                    why = str(error)
                    server.rests_until = time.monotonic() + _REST_S
                    log.warning("policy: %s; it is left alone for %g s", why, _REST_S)
        raise PoolExhausted(f"policy: none of {len(self._servers)} servers answers, the last: {why}")

    def _next(self) -> _Server:
        """The one with the fewest requests under way, of those that answer."""
        now = time.monotonic()
        return min(self._servers, key=lambda server: (server.rests_until > now, server.running))

    async def _asked(self, server: _Server, request: Generation, num: int, *, queue_s: float) -> list[Told]:
        server.running += num
        began = time.monotonic()
        try:
            reply = await server.client.chat.completions.create(**self._body(request, num))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise ProblemError(f"policy: {server.url} refuses a request: {one_line(error)}") from error
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(f"policy: {server.url} refuses model {self.model}: {one_line(error)}") from error
        except (openai.OpenAIError, ValueError) as error:  # ValueError: what it sent is not JSON
            raise _Lost(f"{server.url}: {one_line(error)}") from error
        finally:
            server.running -= num
        try:
            read = read_reply(reply, max_tokens=request.max_tokens)
            if len(read.choices) > num:
                raise ValueError(f"{len(read.choices)} choices")
        except (AttributeError, TypeError, ValueError) as error:
            wanted = "one choice" if num == 1 else f"{num} choices"
            raise _Lost(
                f"{server.url}: wanted a chat completion with {wanted} and its usage, got {str(reply)[:200]!r}"
            ) from error
        server.counters["prompt_tokens"] += read.prompt_tokens
        server.counters["generated_tokens"] += sum(choice.tokens for choice in read.choices)
        engine_s = time.monotonic() - began
        prompts = [read.prompt_tokens] + [0] * (len(read.choices) - 1)  # it was read once
        told = [
            _told(choice, prompt, queue_s=queue_s, engine_s=engine_s)
            for choice, prompt in zip(read.choices, prompts, strict=True)
        ]
        if request.logprobs is None:
            return told
        return [
            self._with_logprobs(choice.logprobs, segments, request.logprobs)
            for choice, segments in zip(read.choices, told, strict=True)
        ]

    def _with_logprobs(self, told: Sequence[Any], segments: Told, num_likeliest: int) -> Told:
        """What the reply says of its tokens: of the last ones where it also says it of the thinking, and of one fewer
        where it leaves out the token that ends it. Raises UserError where the server tells nothing."""
        if (segments[-1].text and not told) or (num_likeliest and not all(token.top_logprobs for token in told)):
            raise UserError(
                f"policy: {self.model} tells no log-probabilities, or none of likeliest tokens; wanted a server that "
                f"knows logprobs and top_logprobs: {num_likeliest}, or a strategy that needs none"
            )
        left, filled = list(told), list[Segment]()
        for segment in reversed(segments):
            first = max(0, len(left) - len(segment.token_ids))
            left, own = left[:first], left[first:]
            tops = [nlargest(num_likeliest, (top.logprob for top in token.top_logprobs or ())) for token in own]
            confidence = step_confidence([token_confidence(top) for top in tops if top])
            logprob = sum(token.logprob for token in own) if own else None
            filled.insert(0, replace(segment, logprob=logprob, confidence=confidence))
        return tuple(filled)

    def _body(self, request: Generation, num: int) -> dict[str, Any]:
        sampling: dict[str, Any] = {"top_k": request.top_k, "min_p": request.min_p}
        unusual = {name: value for name, value in sampling.items() if value}  # hosted APIs don't know them
        if request.repetition_penalty != 1:
            unusual["repetition_penalty"] = request.repetition_penalty
        prompt = self._prompts[request.prefix_ids]
        if template := {**self._config.chat_template_kwargs, **prompt.template}:
            unusual["chat_template_kwargs"] = template
        return {
            "model": self.model,
            "messages": [_as_sent(message) for message in prompt.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % MOST_SEED,
            "stop": list(request.stop) or None,
            "logprobs": None if request.logprobs is None else True,
            "top_logprobs": request.logprobs or None,
            "extra_body": unusual or None,
            **({} if prompt.json_schema is None else {"response_format": as_response_format(prompt.json_schema)}),
            **({"n": num} if num > 1 else {}),
        }


class ChatStream:
    """Implements `GenerationStream`: completions as they arrive. Owner of their tasks."""

    def __init__(self, completions: Sequence[Coroutine[Any, Any, Told]]) -> None:
        self._tasks = [asyncio.create_task(completion) for completion in completions]
        self._arrived: asyncio.Queue[int] = asyncio.Queue()
        self._ready: deque[tuple[int, Segment]] = deque()
        self._unread = len(self._tasks)
        for index, task in enumerate(self._tasks):
            task.add_done_callback(partial(self._ended, index))

    def _ended(self, index: int, task: "asyncio.Task[Told]") -> None:
        self._arrived.put_nowait(index)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Segment]:
        if not self._ready:
            if not self._unread:
                raise StopAsyncIteration
            index = await self._arrived.get()
            self._unread -= 1
            self._ready.extend((index, segment) for segment in _segments(self._tasks[index]))
        return self._ready.popleft()

    def abort(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._tasks[index].cancel()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _as_sent(message: Message) -> dict[str, Any]:
    """As the API has it: the arguments of calls are JSON."""
    sent = as_dict(message)
    for told, call in zip(sent.get("tool_calls", ()), message.tool_calls, strict=True):
        told["function"]["arguments"] = call.arguments
    return sent


def _told(choice: Choice, prompt_tokens: int, *, queue_s: float, engine_s: float) -> Told:
    """The thinking, if the server tells it, and the reply."""
    reply = Segment(
        token_ids=(UNKNOWN_ID,) * (choice.tokens - choice.thinking_tokens),
        text=choice.text,
        finish=choice.finish,
        prompt_tokens=prompt_tokens,
        queue_s=queue_s,
        engine_s=engine_s,
    )
    if not choice.thinking_tokens and not choice.thoughts:
        return (reply,)
    thinking = (UNKNOWN_ID,) * choice.thinking_tokens
    return Segment(token_ids=thinking, text=choice.thoughts, thinking=True, prompt_tokens=prompt_tokens), reply


def _segments(task: "asyncio.Task[Told]") -> Told:
    """Of a completion that ended. Raises HeadraceError."""
    if task.cancelled():
        return (Segment(token_ids=(), text="", finish=Finish.ABORTED),)
    if (error := task.exception()) is not None:
        raise error if isinstance(error, HeadraceError) else ReplicaError(f"policy: {error!r}") from error
    return task.result()
