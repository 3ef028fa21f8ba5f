"""A server that somebody else runs, as a `TokenEngine`: vLLM's own, or any that takes and returns token ids.

A request is a streamed `/v1/completions` with token ids as its prompt and `return_token_ids`. Closing the connection
ends it there. A stream that is cut off goes on from the tokens that came. The server is asked at the start what it
serves, and whether its tokens are those of the tokenizer here.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from heapq import nlargest
from typing import Any

import openai
from tokenizers import Tokenizer

from orchestrator.core.confidence import token_confidence
from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import ProblemError, ReplicaError, UserError
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Finish, Generation
from orchestrator.core.seeds import derive_seed
from orchestrator.core.tools import CallingReply, Reply, Tools
from orchestrator.policy.engines.chat_template import render
from orchestrator.policy.engines.clients import ServerFailed, api_key, as_response_format, one_line, open_client, post
from orchestrator.policy.engines.contract import Delta, PolicyInfo
from orchestrator.policy.engines.server_info import examined, writes
from orchestrator.policy.tool_calls import read_calls

log = logging.getLogger(__name__)

_MOST_RESUMED = 3  # times that a stream which was cut off goes on
_INTERVAL = 4  # tokens in a chunk, where no step is waited for


class _CutOff(Exception):
    """A stream broke off, or can't be read."""


class ServerEngine:
    """Owner of the client and of the tasks that read its streams."""

    _info: PolicyInfo  # once the server was asked

    def __init__(self, config: PolicyConfig, url: str, client: openai.AsyncOpenAI, tokenizer: Any) -> None:
        """Use `load`."""
        self._config = config
        self._client = client
        self._transformers_tokenizer = tokenizer
        self._who = f"policy: {url}"
        self._vocab_size = len(tokenizer)
        self._counters: Counter[str] = Counter()
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._aborted: set[str] = set()

    @classmethod
    async def load(cls, config: PolicyConfig, *, index: int, num_threads: int) -> "ServerEngine":
        """Raises UserError for a server that can't serve this policy, ReplicaError for one that does not answer."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
        except (OSError, ValueError) as error:
            raise UserError(f"policy.tokenizer: {config.tokenizer} can't be read: {error}") from error
        url = config.urls[index]
        key = api_key(config.api_key_env, "policy.api_key_env")
        client = open_client(url, key, config.request_timeout_s)
        engine = cls(config, url, client, tokenizer)
        try:
            engine._info = await examined(config, url, client, tokenizer)
        except BaseException:
            await client.close()
            raise
        return engine

    @property
    def tokenizer(self) -> Tokenizer:
        tokenizer: Tokenizer = self._transformers_tokenizer.backend_tokenizer
        return tokenizer

    @property
    def context_length(self) -> int:
        return self._info.context_length

    @property
    def num_running(self) -> int:
        return len(self._readers)

    @property
    def progress(self) -> int:
        return self._counters["chunks"]

    def info(self) -> PolicyInfo:
        return self._info

    def counters(self) -> dict[str, int]:
        """Of what was asked here: the server serves others, too. It tells cached tokens where it is told to."""
        names = ("prompt_tokens", "cached_tokens", "generated_tokens", "preemptions")
        return {name: self._counters[name] for name in names}

    def render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        return render(self._transformers_tokenizer, messages, self._config, template)

    def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
        name = self.info().tool_parser
        assert name is not None, "no session asks without a parser"
        return read_calls(name, self._transformers_tokenizer, tools, replies)

    async def abort(self, name: str) -> None:
        """Closes the connection, which ends the request in the server."""
        if (reader := self._readers.get(name)) is not None:
            self._aborted.add(name)
            reader.cancel()

    def check_schema(self, json_schema: str) -> None:
        """The server checks it with the request."""

    async def stop(self) -> None:
        readers = list(self._readers.values())
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await self._client.close()

    async def stream(
        self, name: str, generation: Generation, stop_token_ids: Sequence[int]
    ) -> AsyncGenerator[Delta, None]:
        arrived: asyncio.Queue[Delta | BaseException] = asyncio.Queue()
        reader = self._readers[name] = asyncio.create_task(self._read(generation, stop_token_ids, arrived))
        reader.add_done_callback(lambda task: arrived.put_nowait(_ended(task)))
        try:
            while True:
                item = await arrived.get()
                if isinstance(item, asyncio.CancelledError) and name in self._aborted:
                    yield Delta((), 0, Finish.ABORTED)
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            del self._readers[name]
            self._aborted.discard(name)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(
        self, generation: Generation, stop_token_ids: Sequence[int], arrived: "asyncio.Queue[Delta | BaseException]"
    ) -> None:
        """Reads the stream of a request to its end, and goes on where it is cut off. Raises HeadraceError."""
        if generation.reads is not None:
            return arrived.put_nowait(await self._read_back(generation))
        sampled: list[int] = []
        for _ in range(1 + _MOST_RESUMED):
            rest = _rest(generation, sampled)
            try:
                async for delta in self._chunks(rest, stop_token_ids):
                    sampled += delta.token_ids
                    arrived.put_nowait(delta)
                    if delta.finish is not None:
                        return
                why = "it ended without a finish_reason"
            except _CutOff as error:
                why = str(error)
            if generation.json_schema is not None and sampled:
                raise ReplicaError(f"{self._who}: a request was cut off, and a JSON schema holds from its begin: {why}")
            log.warning("%s: a stream was cut off after %d tokens: %s", self._who, len(sampled), why)
            if len(sampled) >= generation.max_tokens:  # only its end was missing
                return arrived.put_nowait(Delta((), 0, Finish.LENGTH))
        raise ReplicaError(f"{self._who}: a request was cut off {1 + _MOST_RESUMED} times, the last: {why}")

    async def _read_back(self, generation: Generation) -> Delta:
        """What the server tells of the prefix: whole, for streams don't carry it. Raises ProblemError where it tells
        nothing."""
        body = self._body(generation, ())
        body["extra_body"] |= {"prompt_logprobs": generation.reads}
        reply = await self._post(body, stream=False)
        [choice] = reply.choices
        told = (choice.model_extra or {}).get("prompt_logprobs")
        if not isinstance(told, list) or len(told) != len(generation.prefix_ids):
            raise ProblemError(f"{self._who}: wanted prompt_logprobs of {len(generation.prefix_ids)} tokens, got none")
        read = [{int(token_id): float(one["logprob"]) for token_id, one in (place or {}).items()} for place in told]
        token_ids = self._checked_ids((choice.model_extra or {}).get("token_ids"))
        self._counters["prompt_tokens"] += len(generation.prefix_ids)
        self._counters["generated_tokens"] += len(token_ids)
        return Delta(token_ids, 0, _finish(choice, ()), read=read)

    async def _chunks(self, generation: Generation, stop_token_ids: Sequence[int]) -> AsyncGenerator[Delta, None]:
        stream = await self._post(self._body(generation, stop_token_ids), stream=True)
        self._counters["prompt_tokens"] += len(generation.prefix_ids)
        last: Delta | None = None  # held back until the usage, which comes after it
        try:
            async for chunk in _read_on(stream):
                self._counters["chunks"] += 1
                if last is not None and chunk.usage is not None:
                    last = last._replace(cached_tokens=self._cached(chunk.usage))
                for choice in chunk.choices:
                    token_ids = self._checked_ids((choice.model_extra or {}).get("token_ids"))
                    self._counters["generated_tokens"] += len(token_ids)
                    delta = Delta(token_ids, 0, _finish(choice, stop_token_ids))
                    if generation.logprobs is not None and token_ids:
                        delta = self._with_logprobs(delta, choice.logprobs, generation.logprobs)
                    if generation.words and token_ids:
                        delta = delta._replace(likeliest=_likeliest(choice.logprobs))
                    if delta.finish is not None:
                        last = delta
                    elif token_ids:
                        yield delta
        except _CutOff:
            if last is None:
                raise
        finally:
            await stream.close()
        if last is not None:
            yield last

    def _with_logprobs(self, delta: Delta, told: Any, num_likeliest: int) -> Delta:
        """A chunk's tokens with their log-probabilities. Raises ProblemError where the server does not tell them."""
        wanted = len(delta.token_ids)
        logprobs = (told.token_logprobs or []) if told is not None else []
        tops = (told.top_logprobs or []) if told is not None and num_likeliest else []
        if len(logprobs) != wanted or (num_likeliest and len(tops) != wanted):
            raise ProblemError(
                f"{self._who}: wanted logprobs of {wanted} tokens, {num_likeliest} likeliest ones beside each, "
                f"got those of {len(logprobs)}, and likeliest ones beside {len(tops)}"
            )
        likeliest = [nlargest(num_likeliest, top.values()) for top in tops]  # beside them the sampled one may stand
        confidences = [token_confidence(top) for top in likeliest] if num_likeliest else None
        return delta._replace(logprobs=logprobs, confidences=confidences)

    def _cached(self, usage: Any) -> int:
        """Of the prompt, where the server tells it."""
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens or 0) if details is not None else 0
        self._counters["cached_tokens"] += cached
        return cached

    def _body(self, generation: Generation, stop_token_ids: Sequence[int]) -> dict[str, Any]:
        waits = generation.streams or generation.stop or (generation.until_step and not stop_token_ids)
        return {
            "model": self._config.model,
            "prompt": list(generation.prefix_ids),
            "max_tokens": generation.max_tokens,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "seed": generation.seed,
            "logprobs": generation.logprobs,
            "extra_body": {
                "return_token_ids": True,
                "return_tokens_as_token_ids": True if generation.logprobs else None,  # equal texts are told apart
                "stop_token_ids": list(stop_token_ids),
                "stream_interval": 1 if waits else _INTERVAL,
                # said in any case: a model's generation_config.json may say otherwise
                "top_k": generation.top_k,
                "min_p": generation.min_p,
                "repetition_penalty": generation.repetition_penalty,
                "response_format": as_response_format(generation.json_schema),
            },
        }

    async def _post(self, body: Mapping[str, Any], *, stream: bool) -> Any:
        """As `post`. A request on which a server fails that answers others is the problem's own error: it would end one
        replica after another."""
        try:
            return await post(self._client, self._who, body, stream=stream)
        except ServerFailed as error:
            if await writes(self._client, self._who, self._config.model):
                raise ProblemError(f"{error}; and it answers other requests") from error
            raise

    def _checked_ids(self, token_ids: Any) -> list[int]:
        """Raises ReplicaError for what can't be tokens of the tokenizer here."""
        if token_ids is None:
            return []
        if not isinstance(token_ids, list) or not all(
            isinstance(token_id, int) and 0 <= token_id < self._vocab_size for token_id in token_ids
        ):
            raise ReplicaError(
                f"{self._who}: wanted token ids below {self._vocab_size}, those of {self._config.tokenizer}, "
                f"got {str(token_ids)[:100]}"
            )
        return token_ids


async def _read_on(stream: Any) -> AsyncGenerator[Any, None]:
    """The chunks of a stream. Raises _CutOff: the client raises its transport's errors, and those of its parsers."""
    try:
        async for chunk in stream:
            yield chunk
    except GeneratorExit:
        raise
    except Exception as error:
        raise _CutOff(one_line(error)) from error


def _likeliest(logprobs: Any) -> list[dict[int, float]]:
    """Of each token of a chunk, in whose `top_logprobs` a token is written as `token_id:17`. Raises ProblemError."""
    try:
        return [
            {int(token.removeprefix("token_id:")): float(logprob) for token, logprob in by_token.items()}
            for by_token in logprobs.top_logprobs
        ]
    except (TypeError, ValueError) as error:
        raise ProblemError(
            f"policy: a server names the likeliest tokens otherwise than asked: got {str(logprobs)[:100]!r}, wanted "
            "token_id:17"
        ) from error


def _rest(generation: Generation, sampled: Sequence[int]) -> Generation:
    if not sampled:
        return generation
    return replace(
        generation,
        prefix_ids=(*generation.prefix_ids, *sampled),
        max_tokens=generation.max_tokens - len(sampled),
        seed=derive_seed(generation.seed, "resumed", (len(sampled),)),  # not the same draws again
    )


def _finish(choice: Any, stop_token_ids: Sequence[int]) -> Finish | None:
    match choice.finish_reason:
        case None:
            return None
        case "length":
            return Finish.LENGTH
        case "stop":
            stopped_at = (choice.model_extra or {}).get("stop_reason")
            return Finish.BOUNDARY if stopped_at in stop_token_ids else Finish.EOS
        case "abort":
            return Finish.ABORTED
    raise ReplicaError(f"policy: a server ended a request: got {choice.finish_reason!r}, wanted 'stop' or 'length'")


def _ended(reader: "asyncio.Task[None]") -> BaseException:
    """Why a reader ended; it says so itself where it read to the end."""
    if reader.cancelled():
        return asyncio.CancelledError()
    return reader.exception() or ReplicaError("policy: a stream ended without saying so")
