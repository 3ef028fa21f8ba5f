"""A policy engine without a model, for what runs around engines: it writes drawn tokens at a drawn pace.

`null_policy` is its configuration. A solution has a fixed number of steps, so that a search costs the same number of
steps in every cell of a benchmark. Its tokens derive from the seed of the request, its times do not change them.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import ProblemError
from orchestrator.core.fingerprint import tokenizer_fingerprint
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Finish, Generation
from orchestrator.policy.engines.contract import Delta, PolicyInfo
from orchestrator.typed import typed

NAME = "experiments.bench.control_plane.engine:NullEngine"
NUM_WORDS = 256
CONTEXT_LENGTH = 32_768
_STEP_END, _END = NUM_WORDS, NUM_WORDS + 1  # the tokens after the words
_TEXTS = {_STEP_END: "\n\n", _END: "<end>"}
_SHAPE = ModelShape(weights_per_token=0, head_weights=0, num_layers=0, attention_width=0)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What a null engine writes, and how fast. Lengths and times are drawn between half and one and a half of these."""

    tokens_per_s: float = 30.0  # of each sequence
    step_tokens: int = 50
    solution_steps: int = 6  # exact
    delta_tokens: int = 8  # that arrive together

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be > 0, got {value}")


def null_policy(writing: Writing, **settings: Any) -> PolicyConfig:
    """A policy of null engines. `settings` are those of `PolicyConfig`, such as `replicas`."""
    return PolicyConfig(engine=NAME, model="null", engine_args=asdict(writing), **settings)


class NullEngine:
    """Implements `TokenEngine`. Owner of the streams that wait for their next tokens."""

    def __init__(self, writing: Writing, max_num_seqs: int) -> None:
        self._writing = writing
        self._max_num_seqs = max_num_seqs
        self._waiting: dict[str, asyncio.Future[None]] = {}  # by request, for its next tokens
        self._aborted: set[str] = set()
        self._counters: Counter[str] = Counter()
        self._pace = random.Random(0)
        self.tokenizer = null_tokenizer()
        self.context_length = CONTEXT_LENGTH

    @classmethod
    async def load(cls, config: PolicyConfig, *, index: int, num_threads: int) -> "NullEngine":
        return cls(typed(Writing, config.engine_args, "policy.engine_args"), config.max_num_seqs)

    def info(self) -> PolicyInfo:
        return PolicyInfo(
            context_length=CONTEXT_LENGTH,
            shape=_SHAPE,
            fingerprint=tokenizer_fingerprint(self.tokenizer.get_vocab()),
            kv_capacity_tokens=CONTEXT_LENGTH * self._max_num_seqs,
            max_num_seqs=self._max_num_seqs,
        )

    @property
    def num_running(self) -> int:
        return len(self._waiting)

    @property
    def progress(self) -> int:
        return self._counters["deltas"]

    def counters(self) -> dict[str, int]:
        """`steps` that were written to their end beside what every engine counts."""
        names = ("prompt_tokens", "cached_tokens", "generated_tokens", "preemptions", "steps")
        return {name: self._counters[name] for name in names}

    def check_schema(self, json_schema: str) -> None:
        pass

    def render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        return " ".join(message.content for message in messages)

    async def abort(self, name: str) -> None:
        if (waiting := self._waiting.get(name)) is not None:
            self._aborted.add(name)
            _wake(waiting)

    async def stop(self) -> None:
        """Nothing was started: the host has ended its streams."""

    async def stream(
        self, name: str, generation: Generation, stop_token_ids: Sequence[int]
    ) -> AsyncGenerator[Delta, None]:
        if generation.logprobs is not None or generation.reads is not None:
            raise ProblemError("policy: the null engine tells no log-probabilities, and was asked for them")
        writing, prefix_ids = self._writing, generation.prefix_ids
        cached = len(prefix_ids) - 1
        self._counters["prompt_tokens"] += len(prefix_ids)
        self._counters["cached_tokens"] += cached
        token_ids, finish = self._continuation(generation, stop_token_ids)
        try:
            for start in range(0, len(token_ids), writing.delta_tokens):
                delta = token_ids[start : start + writing.delta_tokens]
                await self._wait(name, self._pace.uniform(0.5, 1.5) * len(delta) / writing.tokens_per_s)
                if name in self._aborted:
                    yield Delta((), cached, Finish.ABORTED)
                    return
                self._counters["deltas"] += 1
                self._counters["generated_tokens"] += len(delta)
                self._counters["steps"] += sum(token in (_STEP_END, _END) for token in delta)
                ends = start + writing.delta_tokens >= len(token_ids)
                yield Delta(delta, cached, finish if ends else None)
        finally:
            self._waiting.pop(name, None)
            self._aborted.discard(name)

    async def _wait(self, name: str, seconds: float) -> None:
        """So long, or until the request is aborted."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting[name] = loop.create_future()
        timer = loop.call_later(seconds, _wake, waiting)
        try:
            await waiting
        finally:
            timer.cancel()

    def _continuation(self, generation: Generation, stop_token_ids: Sequence[int]) -> tuple[list[int], Finish]:
        """All that a request samples, and why it ends there."""
        token_ids: list[int] = []
        for token in self._solution_from(generation):
            token_ids.append(token)
            if token == _END:
                return token_ids, Finish.EOS
            if token in stop_token_ids:
                return token_ids, Finish.BOUNDARY
            if len(token_ids) == generation.max_tokens:
                break
        return token_ids, Finish.LENGTH

    def _solution_from(self, generation: Generation) -> Iterator[int]:
        """What is left of a solution, of which the prefix may hold some steps. A word can't be one of the two ends."""
        rng, step_tokens = random.Random(generation.seed), self._writing.step_tokens
        prefix_ids = generation.prefix_ids
        num_prompt = len(prefix_ids) if generation.num_prompt is None else generation.num_prompt
        for left in reversed(range(self._writing.solution_steps - prefix_ids[num_prompt:].count(_STEP_END))):
            length = max(1, round(step_tokens * rng.uniform(0.5, 1.5)))
            yield from rng.choices(range(NUM_WORDS), k=length - 1)
            yield _STEP_END if left else _END


def null_prompt(seed: int, words: int = 64) -> str:
    """A problem's text, of as many tokens as words."""
    return " ".join(f"w{number}" for number in random.Random(seed).choices(range(NUM_WORDS), k=words))


@cache
def null_tokenizer() -> Tokenizer:
    """One token for each word, one that ends a step and one that ends a solution."""
    words = [*(f"w{number}" for number in range(NUM_WORDS)), _TEXTS[_STEP_END]]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(_TEXTS[_END], special=True)])
    return tokenizer


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
