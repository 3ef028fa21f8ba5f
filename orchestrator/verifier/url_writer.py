"""A server with the OpenAI API writes a verifier's chains. Import it only where there is one: the client takes seconds.

One request is one chain, because not every server knows `n`; tokens are what the server says that it used. It does not
say what its model is, so FLOPs are these times the user's `flops_per_token`; without that, tokens alone are counted.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai

from orchestrator.core.alternatives import Alternatives, may_hold
from orchestrator.core.errors import ReplicaError, UserError, first_error
from orchestrator.policy.engines import clients
from orchestrator.policy.engines.contract import NUM_LIKELIEST
from orchestrator.verifier.chains import Chain, chain_seed
from orchestrator.verifier.check import judge_key
from verifiers.generative_options import GenerativeOptions

log = logging.getLogger(__name__)

_EASY_PROMPT = "1 + 1 ="


class _NoChain(Exception):
    """The server has no answer to a prompt, or none that can be read, however often it is asked."""


class UrlWriter:
    """Implements `ChainWriter`. Owner of the client; see `open`."""

    num_ready = 1  # whether the server can write is known by asking it only

    def __init__(self, client: openai.AsyncOpenAI, model: str, judge: GenerativeOptions) -> None:
        """Use `open`."""
        self._client = client
        self._model = model
        self._where = f"verifier: {judge.url}"
        self._flops_per_token = judge.flops_per_token or 0.0
        self._places = asyncio.Semaphore(judge.requests_in_flight)
        self._deadline_s = (1 + clients.RETRIES) * judge.timeout_s

    @classmethod
    @asynccontextmanager
    async def open(cls, judge: GenerativeOptions, model: str) -> AsyncIterator["UrlWriter"]:
        """Raises UserError where the environment does not hold the server's key."""
        if judge.flops_per_token is None:
            log.warning(
                "verifier: FLOPs of %s at %s are not known and not counted; wanted verifier.options.flops_per_token",
                model,
                judge.url,
            )
        assert judge.url is not None, "a server writes"
        async with clients.open_client(judge.url, judge_key(judge), judge.timeout_s) as client:
            yield cls(client, model, judge)

    async def write(
        self, prompts: Sequence[str], n: int, *, max_tokens: int, temperature: float, words: Sequence[str]
    ) -> list[tuple[Chain, ...]]:
        how: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        if words:
            how |= {"logprobs": True, "top_logprobs": NUM_LIKELIEST}
        try:
            async with asyncio.TaskGroup() as tasks:
                chains = [
                    [tasks.create_task(self._chain(prompt, index, how, words)) for index in range(n)]
                    for prompt in prompts
                ]
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        return [tuple(task.result() for task in tasks_of_prompt) for tasks_of_prompt in chains]

    async def _chain(self, prompt: str, index: int, how: Mapping[str, Any], words: Sequence[str]) -> Chain:
        async with self._places:
            try:
                return await self._asked(prompt, index, how, words)
            except _NoChain as error:
                if await self._answers():
                    return Chain.of_refused(str(error))  # so it is this prompt's fault
                raise ReplicaError(str(error)) from error

    async def _answers(self) -> bool:
        """Whether the server has an answer to anything."""
        try:
            await self._asked(_EASY_PROMPT, 0, {"max_tokens": 1, "temperature": 0.0}, ())
        except (_NoChain, ReplicaError):
            return False
        return True

    async def _asked(self, prompt: str, index: int, how: Mapping[str, Any], words: Sequence[str]) -> Chain:
        """Raises UserError, ReplicaError, and _NoChain."""
        try:
            async with asyncio.timeout(self._deadline_s):
                reply = await self._client.chat.completions.create(
                    model=self._model,
                    messages=[{"role": "user", "content": prompt}],
                    **how,
                    seed=chain_seed(prompt, index) % clients.MOST_SEED,
                )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(f"{self._where} refuses model {self._model}: {clients.one_line(error)}") from error
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return Chain.of_refused(f"{self._where} refuses a request: {clients.one_line(error)}")
        except (TimeoutError, openai.APITimeoutError):
            raise _NoChain(f"{self._where}: no answer within {self._deadline_s:g} s") from None
        except (openai.InternalServerError, openai.APIResponseValidationError, ValueError) as error:  # not JSON
            raise _NoChain(f"{self._where}: {clients.one_line(error)}") from error
        except openai.OpenAIError as error:
            raise ReplicaError(f"{self._where}: {clients.one_line(error)}") from error
        return self._read(reply, words)

    def _read(self, reply: Any, words: Sequence[str]) -> Chain:
        """The client does not check what it gets."""
        try:
            [choice] = reply.choices
            num_tokens = int(reply.usage.prompt_tokens) + int(reply.usage.completion_tokens)
            text = choice.message.content or ""  # none: it declined
            cut = choice.finish_reason == "length"
        except (AttributeError, TypeError, ValueError) as error:
            raise _NoChain(
                f"{self._where}: wanted a chat completion with one choice and its usage, got {str(reply)[:200]!r}"
            ) from error
        return Chain(
            text=text,
            cut=cut,
            num_tokens=num_tokens,
            flops=num_tokens * self._flops_per_token,
            alternatives=self._alternatives(choice, text, words) if words and text else (),
        )

    def _alternatives(self, choice: Any, text: str, words: Sequence[str]) -> tuple[Alternatives, ...]:
        """Raises UserError where the server tells none."""
        try:
            return read_logprobs(choice.logprobs.content, text, words)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._where} tells no log-probabilities, got {str(choice.logprobs)[:100]!r}; wanted those of"
                f" {NUM_LIKELIEST} top_logprobs, or verifier.options.score: verdict"
            ) from error


def read_logprobs(content: Any, text: str, words: Sequence[str]) -> tuple[Alternatives, ...]:
    """The alternatives to the tokens of a text that may begin one of the words. `content` may hold more tokens than the
    text: of thinking, or of its end. Raises AttributeError, TypeError and ValueError for what can't be read."""
    if not content:
        raise ValueError("no tokens")
    tokens = [token.token.encode() if token.bytes is None else bytes(token.bytes) for token in content]
    whole = b"".join(tokens)
    first = whole.rfind(text.encode())
    if first < 0:
        return ()  # some servers tell a part of a character otherwise
    read, start = [], 0
    for token, own in zip(content, tokens, strict=True):
        shown = own.decode(errors="replace")
        if first <= start < first + len(text.encode()) and may_hold(shown, words):
            told = {other.token: float(other.logprob) for other in (token, *token.top_logprobs)}
            told = {shown if name == token.token else name: logprob for name, logprob in told.items()}
            at = len(whole[first:start].decode(errors="replace"))
            read.append(Alternatives(at=at, text=shown, logprobs=tuple(told.items())))
        start += len(own)
    return tuple(read)
