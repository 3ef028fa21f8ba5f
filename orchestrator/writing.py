"""Sequences that a session has in the policy, and what of them no trajectory has taken yet.

A writer outlives the call that began it when the policy may write on past a step boundary: the next call takes up
where the last one stopped, or gives the rest up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.core.account import Hold
from orchestrator.core.flops import ModelShape
from orchestrator.core.ledger import Ledger
from orchestrator.core.protocols import Generation, Policy, Segment, Writing

_DRAIN_S = 5.0  # for the last segments of aborted sequences


@dataclass(slots=True, eq=False)
class Writer:
    """One sequence. Its segments wait here, each with what it cost, until they are taken or it is given up."""

    request: Generation
    hold: Hold
    hard_cap: int  # tokens after the prompt at which its trajectory is truncated
    segments: deque[tuple[Segment, Ledger]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # of whoever waits for it
    sampled: int = 0
    num_segments: int = 0
    finished: bool = False
    given_up: bool = False
    error: Exception | None = None
    abort: Callable[[], None] = lambda: None


class InFlight:
    """Owner of a session's writers and of the tasks that receive their segments; every cost goes to `spend` at once."""

    def __init__(self, policy: Policy, spend: Callable[[Ledger], None]) -> None:
        self._policy = policy
        self._spend = spend
        self._receiving: dict[asyncio.Task[None], list[Writer]] = {}

    def begin(self, writers: Sequence[Writer]) -> None:
        """Hands the requests to the policy, as one call."""
        if not writers:
            return
        writing = self._policy.generate([writer.request for writer in writers])
        for index, writer in enumerate(writers):
            writer.abort = partial(writing.abort, [index])
        task = asyncio.create_task(self._receive(writing, list(writers)))
        self._receiving[task] = list(writers)
        task.add_done_callback(lambda task: self._receiving.pop(task, None))

    def give_up(self, writers: Sequence[Writer]) -> None:
        """What is left of the writers is thrown away, and counted as that."""
        for writer in writers:
            if writer.given_up:
                continue
            writer.given_up = True
            lost = sum(len(segment.token_ids) for segment, _ in writer.segments)
            writer.segments.clear()
            if lost:
                self._spend(Ledger(discarded_tokens=lost))
            if not writer.finished:
                writer.abort()

    async def drain(self) -> None:
        """Waits until all that was given up is accounted for."""
        if self._receiving:
            await asyncio.wait(list(self._receiving), timeout=_DRAIN_S)

    async def close(self) -> None:
        """Aborts everything. Nothing is received any more."""
        tasks = list(self._receiving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def writers(self) -> list[Writer]:
        """Of the calls that are not over."""
        return [writer for writers in self._receiving.values() for writer in writers]

    async def _receive(self, writing: Writing, writers: list[Writer]) -> None:
        try:
            async with aclosing(writing):
                async for index, segment in writing:
                    self._arrive(writers[index], segment)
        except Exception as error:  # told to whoever takes from these writers
            for writer in writers:
                writer.error = error
        finally:
            for writer in writers:
                writer.arrived.set()

    def _arrive(self, writer: Writer, segment: Segment) -> None:
        cost = paid = _cost(self._policy.shape, writer, segment)
        if segment.lost_tokens:
            counted = replace(segment, discarded_tokens=segment.discarded_tokens - segment.lost_tokens)
            paid = _cost(self._policy.shape, writer, counted)
        writer.sampled += cost.generated_tokens
        writer.num_segments += 1
        writer.hold.use(policy_tokens=paid.generated_tokens, flops=paid.policy_flops)
        if segment.finish is not None:
            writer.finished = True
        if writer.given_up:
            self._spend(cost + Ledger(discarded_tokens=len(segment.token_ids)))
            return
        self._spend(cost)
        writer.segments.append((segment, cost))
        writer.arrived.set()


def _cost(shape: ModelShape, writer: Writer, segment: Segment) -> Ledger:
    """What a segment added. Requests that never got to sample cost nothing: nothing of their prefix was read."""
    request, prefix = writer.request, len(writer.request.prefix_ids)
    sampled = len(segment.token_ids) + segment.discarded_tokens

    def flops(tokens: int) -> float:
        """Of the request with so many tokens sampled."""
        return shape.sampling_flops(prefix=prefix, cached=segment.cached_tokens, sampled=tokens)

    first = writer.sampled == 0 and sampled > 0
    past_boundary = sampled if writer.num_segments else segment.discarded_tokens
    return Ledger(
        prompt_tokens=prefix if first else 0,
        cached_tokens=segment.cached_tokens if first else 0,
        generated_tokens=sampled,
        discarded_tokens=segment.discarded_tokens,
        speculative_tokens=past_boundary if request.until_step else 0,
        policy_flops=flops(writer.sampled + sampled) - flops(writer.sampled),
        queue_s=segment.queue_s,
        engine_s=segment.engine_s,
    )
