"""What an engine is to the policy's host: token ids in, deltas of token ids out."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from tokenizers import Tokenizer

from orchestrator.core.confidence import TokenConfidence
from orchestrator.core.config import PolicyConfig
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Finish, Generation
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.core.tools import CallingReply, Reply, Tools

NUM_LIKELIEST = 20  # tokens told in the place of one: the most that engines and servers tell by default


class Delta(NamedTuple):
    """Tokens that an engine sampled."""

    token_ids: Sequence[int]
    cached_tokens: int
    finish: Finish | None  # BOUNDARY: at one of the `stop_token_ids`
    logprobs: Sequence[float] | None = None  # of the tokens, where the generation asks for them
    confidences: Sequence[TokenConfidence] | None = None  # of the tokens, where it asks for likeliest ones, too
    likeliest: Sequence[Mapping[int, float]] | None = None  # in the place of each, where it asks about words
    read: Sequence[Mapping[int, float]] | None = None  # at each place of the prefix, where it `reads`; its token first


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """What an engine serves. `fingerprint` is that of the vocabulary."""

    context_length: int
    shape: ModelShape
    fingerprint: str
    kv_capacity_tokens: int
    max_num_seqs: int
    thinking: ThinkingMarkers | None = None
    tool_parser: str | None = None  # of vLLM's, for calls of tools
    kv_block_tokens: int = 1  # a sequence fills the cache in whole blocks of so many


class TokenEngine(Protocol):
    """Samples tokens, end and stop tokens included. Raises ProblemError for a request that it refuses."""

    @classmethod
    async def load(cls, config: PolicyConfig, *, index: int, num_threads: int) -> Self:
        """The engine of a pool's replica `index`, ready to sample. It may take minutes, and set the environment of a
        process that it has for itself. Raises UserError for what can't be loaded, ReplicaError."""
        ...

    def info(self) -> PolicyInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def context_length(self) -> int: ...

    @property
    def num_running(self) -> int: ...

    @property
    def progress(self) -> int:
        """A count that grows with all that the engine does, also while it reads a long prompt and samples nothing."""
        ...

    def counters(self) -> dict[str, int]:
        """What the engine itself counted since its start."""
        ...

    def stream(self, name: str, generation: Generation, stop_token_ids: Sequence[int]) -> AsyncGenerator[Delta, None]:
        """Closing it aborts the request, too."""
        ...

    async def abort(self, name: str) -> None:
        """Ends a stream now; its last delta, with all that was sampled, says ABORTED."""
        ...

    def render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        """The prompt, through the chat template with these arguments over the configured ones. Called in a thread of
        its own. Raises ProblemError for what the template does not take."""
        ...

    def check_schema(self, json_schema: str) -> None:
        """Raises ProblemError for a JSON schema that it can't hold its tokens to, as far as is known before. Called in
        a thread of its own."""
        ...

    def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
        """The calls of each reply, through the `tool_parser`. Called in a thread of its own. Raises ProblemError for
        tools that it does not take."""
        ...

    async def stop(self) -> None:
        """Ends what it started."""
        ...
