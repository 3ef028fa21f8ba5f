"""What callers of the policy pool have asked for, and how far it has come."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from orchestrator.core.errors import HeadraceError
from orchestrator.core.protocols import Generation, Segment
from orchestrator.core.seeds import derive_seed
from orchestrator.core.values import changed
from orchestrator.policy.host import Work
from orchestrator.policy.steps import stop_reach


class Place(Protocol):
    """Where requests run, each under an id: a replica."""

    def abort(self, request_id: int) -> None: ...

    def drop(self, request_id: int) -> "PolicyRequest": ...


class PoolStream:
    """Implements `GenerationStream`: where the segments of one `generate` arrive, or the error that ends it."""

    def __init__(
        self,
        generations: Sequence[Generation],
        abort: "Callable[[Sequence[PolicyRequest]], None]",
        cancel: "Callable[[Sequence[PolicyRequest]], None]",
    ) -> None:
        self._arrived: deque[tuple[int, Segment] | HeadraceError] = deque()
        self._news = asyncio.Event()
        self.requests = [
            PolicyRequest(writing=self, index=i, generation=g, seen=g.seen) for i, g in enumerate(generations)
        ]
        self._abort = abort
        self._cancel = cancel
        self._unfinished = len(self.requests)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Segment]:
        if not self._unfinished:
            raise StopAsyncIteration
        while not self._arrived:
            self._news.clear()
            await self._news.wait()  # the pool keeps deadlines, replica by replica
        item = self._arrived.popleft()
        if isinstance(item, HeadraceError):
            raise item
        self._unfinished -= item[1].finish is not None
        return item

    def put(self, item: tuple[int, Segment] | HeadraceError) -> None:
        self._arrived.append(item)
        self._news.set()

    def abort(self, indices: Sequence[int]) -> None:
        self._abort([self.requests[index] for index in indices if self.requests])

    async def aclose(self) -> None:
        requests, self.requests = self.requests, []  # which hold this: without a cycle they are freed at once
        self._cancel(requests)


@dataclass(slots=True, eq=False)
class PolicyRequest:
    """A generation in progress and what was delivered of it."""

    writing: PoolStream
    index: int
    generation: Generation
    seen: str  # end of the text so far, where a stop string may have begun
    place: tuple[Place, int] | None = None  # and its id there; None: it waits, or is done
    token_ids: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)  # of the delivered tokens, where a floor holds
    thinking_tokens: int = 0  # of the delivered ones
    lost_tokens: int = 0  # died with replicas
    aborted: bool = False
    done: bool = False
    held: list[Segment] = field(default_factory=list)  # of one with a schema, till its end
    queue_s: float = 0.0
    engine_s: float = 0.0
    since: float = field(default_factory=time.monotonic)  # it waits, or is in an engine

    def lap(self) -> float:
        """Seconds since the last change of place."""
        before, self.since = self.since, time.monotonic()
        return self.since - before

    @property
    def num_reserved(self) -> int:
        """Tokens that it may fill in a KV cache."""
        return len(self.generation.prefix_ids) + self.generation.max_tokens

    def work(self) -> Work:
        """What is left to do. A schema holds from the answer's begin on: that is written again, with the same draws."""
        asked = self.generation
        if asked.json_schema is not None:
            self.lost_tokens += sum(len(segment.token_ids) for segment in self.held)
            self.held.clear()
            return Work(generation=asked)
        if not self.token_ids and not self.lost_tokens:
            return Work(generation=asked)
        rest = replace(
            asked,
            prefix_ids=(*asked.prefix_ids, *self.token_ids),
            max_tokens=asked.max_tokens - len(self.token_ids),
            max_thinking=None if asked.max_thinking is None else asked.max_thinking - self.thinking_tokens,
            seed=derive_seed(asked.seed, "resumed", (len(self.token_ids),)),  # not the same draws again
            seen=self.seen,
        )
        recent = self.confidences[-asked.floor.group_tokens :] if asked.floor is not None else ()
        return Work(generation=rest, confidences=tuple(recent))

    def take(self, segment: Segment) -> None:
        """Hands a segment to the caller; the last one with what the whole request cost."""
        held_chars = sum(len(held.text) for held in self.held)
        if segment.early is not None:
            self.writing.put((self.index, changed(segment, early=held_chars + segment.early)))
            return
        if self.generation.json_schema is not None and segment.finish is None:
            self.held.append(segment)
            if self.generation.streams:
                self.writing.put((self.index, changed(segment, token_ids=(), early=held_chars)))
            return
        for held in self.held:
            self.writing.put((self.index, held))
        self.token_ids += segment.token_ids
        self.thinking_tokens += len(segment.token_ids) if segment.thinking else 0
        if self.generation.stop:
            reach = stop_reach(self.generation.stop)
            self.seen = (self.seen + segment.text)[-reach:] if reach else ""
        if self.generation.floor is not None and segment.confidence is not None:
            self.confidences += segment.confidence.tokens
        if segment.finish is not None:
            self.done = True
            segment = changed(
                segment,
                discarded_tokens=segment.discarded_tokens + self.lost_tokens,
                lost_tokens=self.lost_tokens,
                queue_s=self.queue_s,
                engine_s=self.engine_s,
            )
        self.writing.put((self.index, segment))

    def fail(self, error: HeadraceError) -> None:
        """Ends the caller's whole call."""
        self.done = True
        self.writing.put(error)
