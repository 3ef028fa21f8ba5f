"""Who writes a verifier's chains: a policy engine here, a server in `orchestrator.verifier.url_writer`."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol

from orchestrator.core.alternatives import Alternatives
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.seeds import derive_seed
from orchestrator.policy.engines.contract import NUM_LIKELIEST
from orchestrator.policy.opened import OpenPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What was written to a prompt, and what that took."""

    text: str
    cut: bool  # it was stopped at `max_tokens`
    num_tokens: int  # read and written: the whole prompt, cached or not, counts for each chain
    flops: float  # what was cached is left out
    refused: str | None = None  # why nothing was written
    alternatives: tuple[Alternatives, ...] = ()  # in the text, to tokens that may begin one of the words asked about

    @classmethod
    def of_refused(cls, reason: str) -> "Chain":
        return cls(text="", cut=False, num_tokens=0, flops=0.0, refused=reason)


class ChainWriter(Protocol):
    @property
    def num_ready(self) -> int:
        """Engines that can write now."""
        ...

    async def write(
        self, prompts: Sequence[str], n: int, *, max_tokens: int, temperature: float, words: Sequence[str]
    ) -> list[tuple[Chain, ...]]:
        """n chains for each prompt, a user's message. Seeds derive from the prompt's text: the same prompt gets the
        same chains, whenever it comes. Those of a prompt that is refused say so. Chains have the alternatives to the
        `words`, if there are any. Raises ReplicaError, and UserError where these can't be told."""
        ...


def chain_seed(prompt: str, index: int) -> int:
    """Of chain `index` to a prompt."""
    return derive_seed(0, prompt, (index,))


class PolicyWriter:
    """Implements `ChainWriter` over a policy that its caller owns."""

    def __init__(self, policy: OpenPolicy) -> None:
        self._policy = policy

    @property
    def num_ready(self) -> int:
        return self._policy.num_ready

    async def write(
        self, prompts: Sequence[str], n: int, *, max_tokens: int, temperature: float, words: Sequence[str]
    ) -> list[tuple[Chain, ...]]:
        encoded = await self._policy.encode([Problem.from_prompt("verification", prompt) for prompt in prompts])
        fits = [len(prefix_ids) < self._policy.context_length for prefix_ids in encoded]
        requests = [
            Generation(
                prefix_ids=prefix_ids,
                max_tokens=max_tokens,
                seed=chain_seed(prompt, index),
                temperature=temperature,
                top_p=1.0,
                eager=False,
                logprobs=NUM_LIKELIEST if words else None,
                words=tuple(words),
            )
            for prompt, prefix_ids in zip(compress(prompts, fits), compress(encoded, fits), strict=True)
            for index in range(n)
        ]
        written: list[list[Segment]] = [[] for _ in requests]
        if requests:
            async with aclosing(self._policy.generate(requests)) as writing:
                async for index, segment in writing:
                    written[index].append(segment)
        chains = iter([self._chain(request, segments) for request, segments in zip(requests, written, strict=True)])
        return [
            tuple(next(chains) if fit else self._too_long(prefix_ids) for _ in range(n))
            for prefix_ids, fit in zip(encoded, fits, strict=True)
        ]

    def _too_long(self, prefix_ids: Sequence[int]) -> Chain:
        return Chain.of_refused(
            f"a prompt of {len(prefix_ids)} tokens leaves no room in the judge's context of "
            f"{self._policy.context_length} tokens"
        )

    def _chain(self, request: Generation, segments: Sequence[Segment]) -> Chain:
        prefix = len(request.prefix_ids)
        sampled = sum(len(segment.token_ids) + segment.discarded_tokens for segment in segments)
        text, alternatives = "", list[Alternatives]()
        for segment in segments:
            if not segment.thinking:
                alternatives += [replace(told, at=len(text) + told.at) for told in segment.alternatives]
                text += segment.text
        return Chain(
            text=text,
            cut=segments[-1].finish is Finish.LENGTH,
            num_tokens=prefix + sampled,
            flops=self._policy.shape.sampling_flops(prefix=prefix, cached=segments[0].cached_tokens, sampled=sampled),
            alternatives=tuple(alternatives),
        )
