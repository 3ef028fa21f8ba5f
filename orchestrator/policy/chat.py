"""Servers that return text and no token ids, as hosted chat APIs do: a policy of whole completions.

Nothing can be continued there, so strategies that go on from steps are refused. Tokens are counted as the server
reports them, and their ids are not known (`UNKNOWN_ID`). Requests go to the address with the fewest under way; one that
fails is left alone for a while, and its requests go elsewhere.
"""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Coroutine, Sequence
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
from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.policy.engines.chat_template import with_examples
from orchestrator.policy.engines.clients import api_key, one_line, open_client

log = logging.getLogger(__name__)

UNKNOWN_ID = -1  # of a token that the server counted
_REST_S = 30.0  # for an address that failed
_MOST_SEED = 2**31  # servers take no larger ones, or not all do
_ENDLESS = 1 << 30  # tokens of a context whose length nobody told
_MOST_PROMPTS = 100_000  # remembered; a search needs its own until it ends


class _Lost(Exception):
    """An address has no answer."""


@dataclass(slots=True, eq=False)
class _Server:
    url: str
    client: openai.AsyncOpenAI
    running: int = 0
    rests_until: float = 0.0
    counters: dict[str, int] = field(default_factory=lambda: {"prompt_tokens": 0, "generated_tokens": 0})


class ChatPolicy:
    """Implements `OpenPolicy`. Owner of the clients; see `open`."""

    thinking: ThinkingMarkers | None = None  # the server keeps it apart
    fingerprint = "unknown"

    def __init__(self, config: PolicyConfig, servers: Sequence[_Server]) -> None:
        """Use `open`."""
        self._config = config
        self._servers = servers
        self._places = asyncio.Semaphore(config.max_num_seqs * len(servers))
        self._prompts: OrderedDict[tuple[int, ...], tuple[Message, ...]] = OrderedDict()
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
        """A name for each prompt: what its tokens are only the server knows."""
        names: list[tuple[int, ...]] = [(UNKNOWN_ID - 1 - next(self._names),) for _ in problems]
        for name, problem in zip(names, problems, strict=True):
            self._prompts[name] = with_examples(problem.messages, self._config)
        while len(self._prompts) > _MOST_PROMPTS:
            self._prompts.popitem(last=False)
        return names

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        raise UserError(f"policy: {self.model} returns text only, so nothing can be injected: got {texts[0]!r}")

    def generate(self, requests: Sequence[Generation]) -> "ChatStream":
        """Raises UserError for what needs token ids."""
        for request in requests:
            if request.prefix_ids not in self._prompts or request.until_step or request.floor is not None:
                raise UserError(
                    f"policy: {self.model} returns text and no token ids, so what it wrote can't be continued or "
                    "stopped; wanted a strategy of whole completions"
                )
        return ChatStream([self._complete(request) for request in requests])

    async def _complete(self, request: Generation) -> tuple[Segment, ...]:
        """Raises ProblemError for a request that is refused, UserError, and PoolExhausted where no address answers."""
        began = time.monotonic()
        async with self._places:
            queue_s = time.monotonic() - began
            why = ""
            for attempt in range((1 + self._config.max_restarts) * len(self._servers)):
                if attempt and attempt % len(self._servers) == 0:  # none answered: they may have too much to do
                    await asyncio.sleep(_REST_S)
                server = self._next()
                try:
                    return await self._asked(server, request, queue_s=queue_s)
                except _Lost as error:
                    why = str(error)
                    server.rests_until = time.monotonic() + _REST_S
                    log.warning("policy: %s; it is left alone for %g s", why, _REST_S)
        raise PoolExhausted(f"policy: none of {len(self._servers)} servers answers, the last: {why}")

    def _next(self) -> _Server:
        """The one with the fewest requests under way, of those that answer."""
        now = time.monotonic()
        return min(self._servers, key=lambda server: (server.rests_until > now, server.running))

    async def _asked(self, server: _Server, request: Generation, *, queue_s: float) -> tuple[Segment, ...]:
        server.running += 1
        began = time.monotonic()
        try:
            reply = await server.client.chat.completions.create(**self._body(request))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise ProblemError(f"policy: {server.url} refuses a request: {one_line(error)}") from error
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(f"policy: {server.url} refuses model {self.model}: {one_line(error)}") from error
        except (openai.OpenAIError, ValueError) as error:  # ValueError: what it sent is not JSON
            raise _Lost(f"{server.url}: {one_line(error)}") from error
        finally:
            server.running -= 1
        segments = self._read(server, reply, queue_s=queue_s, engine_s=time.monotonic() - began)
        return segments if request.logprobs is None else self._with_logprobs(reply, segments, request.logprobs)

    def _body(self, request: Generation) -> dict[str, Any]:
        sampling: dict[str, Any] = {"top_k": request.top_k, "min_p": request.min_p}
        unusual = {name: value for name, value in sampling.items() if value}  # hosted APIs don't know them
        if request.repetition_penalty != 1:
            unusual["repetition_penalty"] = request.repetition_penalty
        if self._config.chat_template_kwargs:
            unusual["chat_template_kwargs"] = self._config.chat_template_kwargs
        messages = self._prompts[request.prefix_ids]
        return {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % _MOST_SEED,
            "stop": list(request.stop) or None,
            "logprobs": None if request.logprobs is None else True,
            "top_logprobs": request.logprobs or None,
            "extra_body": unusual or None,
        }

    def _read(self, server: _Server, reply: Any, *, queue_s: float, engine_s: float) -> tuple[Segment, ...]:
        """The thinking, if the server tells it, and the reply. The client does not check what it gets."""
        try:
            [choice] = reply.choices
            prompt, sampled = int(reply.usage.prompt_tokens), int(reply.usage.completion_tokens)
            text, finish = choice.message.content or "", choice.finish_reason
            details = reply.usage.completion_tokens_details
            thinking = int((details.reasoning_tokens or 0) if details is not None else 0)
            extra = choice.message.model_extra or {}
            thoughts = str(extra.get("reasoning") or extra.get("reasoning_content") or "")
        except (AttributeError, TypeError, ValueError) as error:
            raise _Lost(
                f"{server.url}: wanted a chat completion with one choice and its usage, got {str(reply)[:200]!r}"
            ) from error
        server.counters["prompt_tokens"] += prompt
        server.counters["generated_tokens"] += sampled
        reply_tokens = (UNKNOWN_ID,) * max(0, sampled - thinking)
        end = Finish.LENGTH if finish == "length" else Finish.EOS
        told = Segment(
            token_ids=reply_tokens, text=text, finish=end, prompt_tokens=prompt, queue_s=queue_s, engine_s=engine_s
        )
        if not thinking and not thoughts:
            return (told,)
        return Segment(token_ids=(UNKNOWN_ID,) * thinking, text=thoughts, thinking=True, prompt_tokens=prompt), told

    def _with_logprobs(self, reply: Any, segments: tuple[Segment, ...], num_likeliest: int) -> tuple[Segment, ...]:
        """What the reply says of its tokens: of the last ones where it also says it of the thinking, and of one fewer
        where it leaves out the token that ends it. Raises UserError where the server tells nothing."""
        told = getattr(reply.choices[0].logprobs, "content", None) or ()
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


class ChatStream:
    """Implements `GenerationStream`: completions as they arrive. Owner of their tasks."""

    def __init__(self, completions: Sequence[Coroutine[Any, Any, tuple[Segment, ...]]]) -> None:
        self._tasks = [asyncio.create_task(completion) for completion in completions]
        self._arrived: asyncio.Queue[int] = asyncio.Queue()
        self._ready: deque[tuple[int, Segment]] = deque()
        self._unread = len(self._tasks)
        for index, task in enumerate(self._tasks):
            task.add_done_callback(partial(self._ended, index))

    def _ended(self, index: int, task: "asyncio.Task[tuple[Segment, ...]]") -> None:
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


def _segments(task: "asyncio.Task[tuple[Segment, ...]]") -> tuple[Segment, ...]:
    """Of a completion that ended. Raises HeadraceError."""
    if task.cancelled():
        return (Segment(token_ids=(), text="", finish=Finish.ABORTED),)
    if (error := task.exception()) is not None:
        raise error if isinstance(error, HeadraceError) else ReplicaError(f"policy: {error!r}") from error
    return task.result()
