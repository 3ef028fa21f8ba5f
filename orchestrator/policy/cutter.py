"""Cuts the tokens that an engine samples for one sequence into segments, and decides where it ends. Pure."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.core.confidence import GroupMeans, TokenConfidence, step_confidence
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.thinking import Phase
from orchestrator.policy.engines.contract import Delta
from orchestrator.policy.likeliest import Reader
from orchestrator.policy.steps import Piece, StepSplitter


class Cutter:
    """Cuts one sequence's tokens into segments and decides where it ends."""

    def __init__(
        self,
        generation: Generation,
        confidences: Sequence[float],
        splitter: StepSplitter,
        speculate: int,
        has_spare: Callable[[], bool],
        likeliest: Reader | None,
    ) -> None:
        """`confidences`: of the last group's tokens before these. It may go on past `speculate` boundaries, at each of
        them only while the engine has room to spare."""
        self.last: Segment | None = None  # once it has ended; it grows by what the engine still samples
        self._generation = generation
        self._splitter = splitter
        self._boundaries_left = speculate
        self._has_spare = has_spare
        self._logprobs: deque[float] = deque()  # of the tokens in no segment yet
        self._likeliest = likeliest  # None: nothing is told
        self._confidences: deque[TokenConfidence] = deque()  # likewise
        self._floor = generation.floor
        self._groups = None if self._floor is None else GroupMeans(self._floor.group_tokens)
        if self._groups is not None:
            for confidence in confidences:
                self._groups.push(confidence)

    def push(self, delta: Delta) -> list[Segment]:
        """The segments that these tokens complete, without the last one of the sequence."""
        if self.last is not None:
            discarded = self.last.discarded_tokens + len(delta.token_ids)
            self.last = replace(self.last, discarded_tokens=discarded)
            return []
        self._logprobs.extend(delta.logprobs or ())
        self._confidences.extend(delta.confidences or ())
        segments: list[Segment] = []
        for left, token_id in zip(reversed(range(len(delta.token_ids))), delta.token_ids, strict=True):
            pieces = self._splitter.push(token_id)
            if self._likeliest is not None and delta.likeliest is not None:
                self._likeliest.push(token_id, self._splitter.newest, delta.likeliest[-1 - left])
            doubtful = self._groups is not None and self._doubtful(delta, left)
            finish = self._finish(pieces, None if left else delta.finish, doubtful)
            if finish is not None and not pieces:
                pieces = [self._splitter.rest()]
            segments += [self._segment(piece, delta.cached_tokens) for piece in pieces]
            if finish is not None:
                self.last = replace(segments.pop(), finish=finish, discarded_tokens=left)
                return segments
        if self._generation.streams and delta.finish is None:
            begin, text = self._splitter.early()
            if text:
                thinking = self._splitter.phase is Phase.THINKING
                segments.append(Segment(token_ids=(), text=text, thinking=thinking, early=begin))
        if delta.finish is not None:  # aborted, or ended without a token
            unfinished = self._segment(self._splitter.rest(), delta.cached_tokens)
            self.last = replace(
                unfinished,
                token_ids=(),
                text="",
                logprob=None,
                confidence=None,
                finish=delta.finish,
                discarded_tokens=len(unfinished.token_ids),
            )
        return segments

    def _segment(self, piece: Piece, cached_tokens: int) -> Segment:
        logprob = sum(self._logprobs.popleft() for _ in piece.token_ids) if self._logprobs else None
        confidences = [self._confidences.popleft() for _ in piece.token_ids] if self._confidences else ()
        return Segment(
            token_ids=piece.token_ids,
            text=piece.text,
            thinking=piece.thinking,
            cached_tokens=cached_tokens,
            logprob=logprob,
            alternatives=() if self._likeliest is None else self._likeliest.take(len(piece.text)),
            confidence=step_confidence(confidences),
        )

    def _doubtful(self, delta: Delta, left: int) -> bool:
        """Whether the group is below the floor that ends with the token before the last `left` ones."""
        assert self._floor is not None and self._groups is not None
        assert delta.confidences is not None, "the engine told no confidence where a floor holds"
        mean = self._groups.push(delta.confidences[-1 - left].confidence)
        return mean is not None and mean < self._floor.least

    def _finish(self, pieces: Sequence[Piece], engine: Finish | None, doubtful: bool) -> Finish | None:
        """Why the sequence ends at a token that ended `pieces` and where the engine, too, may have ended it."""
        if pieces and pieces[-1].stopped:
            return Finish.STOP
        if engine is Finish.EOS:
            return Finish.EOS
        if doubtful:
            return Finish.DOUBT
        if self._thought():
            return Finish.THOUGHT
        if self._generation.until_step and (pieces or engine is Finish.BOUNDARY):
            if engine is None and self._boundaries_left > 0 and self._has_spare():
                self._boundaries_left -= 1
                return None
            return Finish.BOUNDARY
        if engine is Finish.ABORTED:
            return None  # what there is of a step is thrown away
        return Finish.STOP if engine is Finish.BOUNDARY else engine

    def _thought(self) -> bool:
        """Whether the thinking has had its tokens, and goes on."""
        most = self._generation.max_thinking
        return most is not None and self._splitter.phase is Phase.THINKING and self._splitter.thinking_tokens >= most
