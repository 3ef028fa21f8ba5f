"""Sequences that a session has in the policy, and the segments of them that no trajectory has taken yet.

A sequence outlives the call that began it when the policy may write on past a step boundary: the next call takes up
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
from orchestrator.core.ledger import Cost
from orchestrator.core.protocols import Generation, GenerationStream, Policy, Segment

_DRAIN_S = 5.0  # for the last segments of aborted sequences


@dataclass(slots=True, eq=False)
class LiveSequence:
    """A sequence in the policy. Its segments wait here, each with its cost, until they are taken or it is given up."""

    request: Generation
    hold: Hold
    hard_cap: int  # tokens after the prompt at which its trajectory is truncated
    segments: deque[tuple[Segment, Cost]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # for the call that waits for it
    sampled: int = 0
    num_segments: int = 0
    finished: bool = False
    given_up: bool = False
    in_call: bool = False  # a call has its steps read: till that returns, what was promised stays so
    over: bool = False  # nothing more is received of it
    error: Exception | None = None
    abort: Callable[[], None] = lambda: None

    @property
    def aborting(self) -> bool:
        """Whether it was given up and the engine has not said yet what it had sampled: that stays promised."""
        return self.given_up and not self.finished and not self.over


class SequencesInFlight:
    """Owner of a session's sequences and of the tasks that receive them; every cost goes to `spend` at once."""

    def __init__(self, policy: Policy, spend: Callable[[Cost], None]) -> None:
        self._policy = policy
        self._spend = spend
        self._receiving: dict[asyncio.Task[None], list[LiveSequence]] = {}

    def begin(self, sequences: Sequence[LiveSequence]) -> None:
        """Hands the requests to the policy, as one call."""
        if not sequences:
            return
        writing = self._policy.generate([sequence.request for sequence in sequences])
        for index, sequence in enumerate(sequences):
            sequence.abort = partial(writing.abort, [index])
        task = asyncio.create_task(self._receive(writing, list(sequences)))
        self._receiving[task] = list(sequences)
        task.add_done_callback(lambda task: self._receiving.pop(task, None))

    def give_up(self, sequences: Sequence[LiveSequence]) -> None:
        """What is left of the sequences is thrown away, and counted as that."""
        for sequence in sequences:
            if sequence.given_up:
                continue
            sequence.given_up = True
            lost = sum(len(segment.token_ids) for segment, _ in sequence.segments)
            sequence.segments.clear()
            if lost:
                self._spend({"discarded_tokens": lost})
            if not sequence.finished:
                sequence.abort()

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
    def sequences(self) -> list[LiveSequence]:
        """Of the calls that are not over."""
        return [sequence for sequences in self._receiving.values() for sequence in sequences]

    async def _receive(self, writing: GenerationStream, sequences: list[LiveSequence]) -> None:
        try:
            async with aclosing(writing):
                async for index, segment in writing:
                    self._arrive(sequences[index], segment)
        except Exception as error:  # raised by the call that takes from these sequences
            for sequence in sequences:
                sequence.error = error
        finally:
            for sequence in sequences:
                sequence.over = True
                sequence.arrived.set()
                if sequence.given_up and not sequence.in_call:
                    sequence.hold.close()

    def _arrive(self, sequence: LiveSequence, segment: Segment) -> None:
        if segment.early is not None:
            if not sequence.given_up:  # in order with the steps, which it comes after
                sequence.segments.append((segment, {}))
                sequence.arrived.set()
            return
        cost = paid = _cost(self._policy.shape, sequence, segment)
        if segment.lost_tokens:
            counted = replace(segment, discarded_tokens=segment.discarded_tokens - segment.lost_tokens)
            paid = _cost(self._policy.shape, sequence, counted)
        sequence.sampled += len(segment.token_ids) + segment.discarded_tokens
        sequence.num_segments += 1
        sequence.hold.use(policy_tokens=paid["generated_tokens"], flops=paid["policy_flops"])
        if segment.finish is not None:
            sequence.finished = True
        if sequence.given_up:
            self._spend(cost)
            self._spend({"discarded_tokens": len(segment.token_ids)})
            if sequence.finished and not sequence.in_call:
                sequence.hold.close()
            return
        self._spend(cost)
        sequence.segments.append((segment, cost))
        sequence.arrived.set()


def _cost(shape: ModelShape, sequence: LiveSequence, segment: Segment) -> Cost:
    """What a segment added. Requests that never got to sample cost nothing: nothing of their prefix was read."""
    request, before = sequence.request, sequence.sampled
    prefix = len(request.prefix_ids) if segment.prompt_tokens is None else segment.prompt_tokens
    sampled = len(segment.token_ids) + segment.discarded_tokens
    cached = segment.cached_tokens
    flops = shape.sampling_flops(prefix=prefix, cached=cached, sampled=before + sampled)
    flops_before = shape.sampling_flops(prefix=prefix, cached=cached, sampled=before)
    first = before == 0 and sampled > 0
    if request.reads is not None and first:
        flops += shape.reading_flops(prefix=prefix)
    past_boundary = sampled if sequence.num_segments else segment.discarded_tokens
    return {
        "prompt_tokens": prefix if first else 0,
        "cached_tokens": cached if first else 0,
        "generated_tokens": sampled,
        "thinking_tokens": len(segment.token_ids) if segment.thinking else 0,
        "discarded_tokens": segment.discarded_tokens,
        "speculative_tokens": past_boundary if request.until_step else 0,
        "policy_flops": flops - flops_before,
        "queue_s": segment.queue_s,
        "engine_s": segment.engine_s,
    }
