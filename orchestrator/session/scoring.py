"""What a search has the verifier read: each due step once, from carried states, and the prompt once for all."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from orchestrator.core.account import Amounts, Hold
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.ledger import Cost
from orchestrator.core.nouns import StateHandle
from orchestrator.core.protocols import ScoreRequest, Solution, Verdict, Verifier
from orchestrator.core.values import changed
from orchestrator.session.books import Books
from orchestrator.session.telling import Telling
from orchestrator.session.tracks import Track


class Scoring:
    """Owner of a search's verifier states."""

    def __init__(self, verifier: Verifier | None, books: Books, telling: Telling | None) -> None:
        self._verifier = verifier
        self._books = books
        self._telling = telling
        self._live: dict[str, StateHandle] = {}  # by key
        self._prompt_handle: asyncio.Task[StateHandle | None] | None = None
        self._prompt_hold: Hold | None = None  # for reading it

    @property
    def possible(self) -> bool:
        return self._verifier is not None

    @property
    def flops_per_token(self) -> float:
        return 0.0 if self._verifier is None else self._verifier.flops_per_token

    async def close(self) -> None:
        """Frees every state."""
        self.free(list(self._live.values()))  # before anything is waited for: this may be cancelled again
        if self._prompt_hold is not None:
            self._prompt_hold.close()
        if self._prompt_handle is not None:
            self._prompt_handle.cancel()
            await asyncio.gather(self._prompt_handle, return_exceptions=True)
            self.free(list(self._live.values()))

    async def read_on(self, tracks: list[Track], news: asyncio.Event) -> None:
        """Scores steps of the tracks as they are taken, one batch at a time, until all are written and scored."""
        while True:
            await news.wait()
            news.clear()
            await self.read(tracks)
            if all(track.written and not self.due(track) for track in tracks):
                return

    async def read(self, tracks: list[Track]) -> None:
        """Scores every step of the tracks that is due. A track may grow meanwhile; its new steps stay unscored."""
        if not any(map(self.due, tracks)):
            return
        if self._verifier is None:
            raise UserError("nothing can be scored, because the run has no verifier: got verifier: null")
        prompt_handle = await self._read_prompt(tracks[0].prefix.prompt_ids)
        read: list[tuple[Track, list[int]]] = []
        readings: list[ScoreRequest] = []
        for track in tracks:
            if not (steps := self.due(track)):
                continue
            ends = tuple([track.ends[index] for index in steps])
            own = track.handle is not None and track.handle is not track.prefix.handle  # siblings fork from that, too
            handle = track.handle or prompt_handle
            if handle is not None and ends[0] <= handle.num_tokens:  # it covers more than the first unscored step
                handle, own = prompt_handle, False
            readings.append(
                ScoreRequest(
                    token_ids=track.token_ids[: ends[-1]],
                    boundaries=ends,
                    handle=handle,
                    keep_parent=not own,
                    solution=_as_text(track, steps) if self._verifier.reads_text else None,
                )
            )
            read.append((track, steps))
        began = time.monotonic()
        verdicts = await self._verifier.score(readings)
        seconds = time.monotonic() - began
        for (track, steps), reading, verdict in zip(read, readings, verdicts, strict=True):
            for index, score in zip(steps if verdict.unjudged is None else (), verdict.scores, strict=True):
                track.steps[index] = changed(track.steps[index], score=score)
                if self._telling is not None:
                    self._telling.score(track, index, score)
            track.num_settled = steps[-1] + 1
            if not reading.keep_parent and reading.handle is not None:
                self._live.pop(reading.handle.key, None)
            if verdict.handle is not None:
                self._live[verdict.handle.key] = verdict.handle
            track.cost.add(self._charge(verdict, seconds, track.hold))
            track.handle, track.unjudged = verdict.handle, verdict.unjudged
            if track.status.done and not self.due(track):
                self.free([track.handle])
                track.handle = None
        if self._telling is not None:
            self._telling.budget()

    def due(self, track: Track) -> list[int]:
        """Indices of the sampled steps that are to be scored and have no score yet: of a verifier that judges whole
        solutions only, the last step of one that has ended. None of what it could not judge, and none of the thinking
        where it is of text."""
        first, steps = track.num_settled, track.steps
        if track.unjudged is not None or first == len(steps):
            return []
        if self._verifier is not None and not self._verifier.scores_steps:
            first = max(first, len(steps) - 1 if track.status.done else len(steps))
        shown = self._verifier is None or not self._verifier.reads_text
        return [
            i
            for i in range(first, len(steps))
            if steps[i].score is None and not steps[i].forced and (shown or not steps[i].thinking)
        ]

    async def _read_prompt(self, prompt_ids: tuple[int, ...]) -> StateHandle | None:
        """The state after the prompt, read once for the whole search; None where no state is carried."""
        assert self._verifier is not None
        if not self._verifier.reads_tokens:
            return None
        if self._prompt_handle is None:
            self._prompt_handle = asyncio.ensure_future(self._handle_of(prompt_ids))
        return await asyncio.shield(self._prompt_handle)

    async def _handle_of(self, prompt_ids: tuple[int, ...]) -> StateHandle | None:
        assert self._verifier is not None
        began = time.monotonic()
        [verdict] = await self._verifier.score([ScoreRequest(token_ids=prompt_ids, boundaries=())])
        if verdict.handle is not None:
            self._live[verdict.handle.key] = verdict.handle
        self._charge(verdict, time.monotonic() - began, self._prompt_hold)
        if verdict.unjudged is not None:
            raise ProblemError(f"the verifier can't read the problem: {verdict.unjudged}")
        return verdict.handle

    def hold_prompt(self, tracks: Sequence[Track]) -> None:
        """Promises what reading the prompt takes, once, before anything else is."""
        if cost := self.prompt_cost(tracks):
            self._prompt_hold = self._books.account.hold(cost)

    def prompt_cost(self, tracks: Sequence[Track]) -> Amounts:
        """What reading the prompt takes; nothing once it is promised."""
        if self._prompt_hold is not None or not tracks or self._verifier is None:
            return {}
        tokens = len(tracks[0].prefix.prompt_ids)
        return {"verifier_tokens": tokens, "flops": tokens * self._verifier.flops_per_token}

    def unread(self, track: Track) -> int:
        """Tokens of the track that the verifier must read before new ones; the prompt counts as read."""
        covered = len(track.prefix.prompt_ids) if track.handle is None else track.handle.num_tokens
        return len(track.token_ids) - covered

    def _charge(self, verdict: Verdict, seconds: float, hold: Hold | None) -> Cost:
        """Books a reading. What was read again is not taken from the budget."""
        cost = {
            "verifier_tokens": verdict.verifier_tokens,
            "reingested_tokens": verdict.reingested_tokens,
            "verifier_flops": verdict.flops,
            "verifier_s": seconds,
        }
        self._books.tally.add(cost)
        self._books.tally.states_held(0 if self._verifier is None else self._verifier.state_bytes * len(self._live))
        share_new = 1 - verdict.reingested_tokens / max(1, verdict.verifier_tokens)
        assert hold is not None, "nothing is read that was not promised"
        hold.use(verifier_tokens=verdict.verifier_tokens - verdict.reingested_tokens, flops=verdict.flops * share_new)
        return cost

    def free(self, handles: Iterable[StateHandle | None]) -> None:
        """Gives back those of the states that the search still holds."""
        owned = [handle for handle in handles if handle is not None and self._live.pop(handle.key, None) is not None]
        if owned and self._verifier is not None:
            self._verifier.release(owned)


def _as_text(track: Track, asked: Sequence[int]) -> Solution:
    """What a verifier of text is shown: the steps of the reply, up to the last one that is asked."""
    reply = [index for index, step in enumerate(track.steps[: asked[-1] + 1]) if not step.thinking]
    return Solution(
        problem=track.prefix.problem,
        steps=tuple(track.steps[index].text for index in reply),
        asked=tuple(reply.index(index) for index in asked),
        ended=track.status.done and asked[-1] + 1 == len(track.steps),
    )
