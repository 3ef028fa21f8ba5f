"""What a search has the verifier read: each due step once, from carried states, and the prompt once for all."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.account import Amounts, Hold
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import StateHandle, Trajectory
from orchestrator.core.protocols import ScoreRequest, Solution, Verdict, Verifier
from orchestrator.session.books import Books
from orchestrator.session.tracks import Track


class Scoring:
    """Owner of a search's verifier states."""

    def __init__(self, verifier: Verifier | None, books: Books) -> None:
        self._verifier = verifier
        self._books = books
        self._live: set[StateHandle] = set()
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
        self.free(set(self._live))  # before anything is waited for: this may be cancelled again
        if self._prompt_hold is not None:
            self._prompt_hold.close()
        if self._prompt_handle is not None:
            self._prompt_handle.cancel()
            await asyncio.gather(self._prompt_handle, return_exceptions=True)
            self.free(set(self._live))

    async def read_on(self, tracks: list[Track], news: asyncio.Event) -> None:
        """Scores steps of the tracks as they are taken, one batch at a time, until all are written and scored."""
        while True:
            await news.wait()
            news.clear()
            await self.read(tracks)
            if all(track.written and not self.due(track.trajectory) for track in tracks):
                return

    async def read(self, tracks: list[Track]) -> None:
        """Scores every step of the tracks that is due. A track may grow meanwhile; its new steps stay unscored."""
        tracks = [track for track in tracks if self.due(track.trajectory)]
        if not tracks:
            return
        if self._verifier is None:
            raise UserError("nothing can be scored, because the run has no verifier: got verifier: null")
        prompt_handle = await self._read_prompt(tracks[0].trajectory.prompt_ids)
        readings, indices = [], []
        for track in tracks:
            trajectory = track.trajectory
            steps = self.due(trajectory)
            ends, end = [], len(trajectory.prompt_ids)
            for index, step in enumerate(trajectory.steps):
                end += len(step.token_ids)
                if index in steps:
                    ends.append(end)
            own = trajectory.handle is not None and trajectory.handle != track.shared_handle
            handle = trajectory.handle or prompt_handle
            if handle is not None and ends[0] <= handle.num_tokens:  # it covers more than the first unscored step
                handle, own = prompt_handle, False
            readings.append(
                ScoreRequest(
                    token_ids=trajectory.token_ids[: ends[-1]],
                    boundaries=tuple(ends),
                    handle=handle,
                    keep_parent=not own,
                    solution=_as_text(trajectory, steps) if self._verifier.reads_text else None,
                )
            )
            indices.append(steps)
        began = time.monotonic()
        verdicts = await self._verifier.score(readings)
        seconds = time.monotonic() - began
        for track, reading, steps, verdict in zip(tracks, readings, indices, verdicts, strict=True):
            scored = list(track.trajectory.steps)
            for index, score in zip(steps if verdict.unjudged is None else (), verdict.scores, strict=True):
                scored[index] = replace(scored[index], score=score)
            if not reading.keep_parent and reading.handle is not None:
                self._live.discard(reading.handle)
            if verdict.handle is not None:
                self._live.add(verdict.handle)
            cost = self._charge(verdict, seconds, track.hold)
            track.trajectory = replace(
                track.trajectory,
                steps=tuple(scored),
                handle=verdict.handle,
                cost=track.trajectory.cost + cost,
                unjudged=verdict.unjudged,
            )
            if track.trajectory.status.done and not self.due(track.trajectory):
                self.free({track.trajectory.handle} if track.trajectory.handle is not None else set())
                track.trajectory = replace(track.trajectory, handle=None)

    def due(self, trajectory: Trajectory) -> list[int]:
        """Indices of the sampled steps that are to be scored and have no score yet: of a verifier that judges whole
        solutions only, the last step of one that has ended. None of what it could not judge, and none of the thinking
        where it is of text."""
        steps = trajectory.steps
        if trajectory.unjudged is not None:
            return []
        if self._verifier is not None and not self._verifier.scores_steps:
            first = len(steps) - 1 if trajectory.status.done else len(steps)
        else:
            first = 0
        shown = self._verifier is None or not self._verifier.reads_text
        return [
            i
            for i in range(max(0, first), len(steps))
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
            self._live.add(verdict.handle)
        self._charge(verdict, time.monotonic() - began, self._prompt_hold)
        if verdict.unjudged is not None:
            raise ProblemError(f"the verifier can't read the problem: {verdict.unjudged}")
        return verdict.handle

    def hold_prompt(self, trajectories: Sequence[Trajectory]) -> None:
        """Promises what reading the prompt takes, once, before anything else is."""
        if cost := self.prompt_cost(trajectories):
            self._prompt_hold = self._books.account.hold(cost)

    def prompt_cost(self, trajectories: Sequence[Trajectory]) -> Amounts:
        """What reading the prompt takes; nothing once it is promised."""
        if self._prompt_hold is not None or not trajectories or self._verifier is None:
            return {}
        tokens = len(trajectories[0].prompt_ids)
        return {"verifier_tokens": tokens, "flops": tokens * self._verifier.flops_per_token}

    def unread(self, trajectory: Trajectory) -> int:
        """Tokens of the trajectory that the verifier must read before new ones; the prompt counts as read."""
        covered = len(trajectory.prompt_ids) if trajectory.handle is None else trajectory.handle.num_tokens
        return len(trajectory.token_ids) - covered

    def _charge(self, verdict: Verdict, seconds: float, hold: Hold | None) -> Ledger:
        """Books a reading. What was read again is not taken from the budget."""
        cost = Ledger(
            verifier_tokens=verdict.verifier_tokens,
            reingested_tokens=verdict.reingested_tokens,
            verifier_flops=verdict.flops,
            verifier_s=seconds,
        )
        state_bytes = 0 if self._verifier is None else self._verifier.state_bytes * len(self._live)
        self._books.spend(replace(cost, peak_state_bytes=state_bytes))
        share_new = 1 - verdict.reingested_tokens / max(1, verdict.verifier_tokens)
        assert hold is not None, "nothing is read that was not promised"
        hold.use(verifier_tokens=verdict.verifier_tokens - verdict.reingested_tokens, flops=verdict.flops * share_new)
        return cost

    def free(self, handles: set[StateHandle]) -> None:
        owned = handles & self._live
        if owned and self._verifier is not None:
            self._live -= owned
            self._verifier.release(sorted(owned, key=lambda handle: handle.key))


def _as_text(trajectory: Trajectory, asked: Sequence[int]) -> Solution:
    """What a verifier of text is shown: the steps of the reply, up to the last one that is asked."""
    reply = [index for index, step in enumerate(trajectory.steps[: asked[-1] + 1]) if not step.thinking]
    return Solution(
        problem=trajectory.problem,
        steps=tuple(trajectory.steps[index].text for index in reply),
        asked=tuple(reply.index(index) for index in asked),
        ended=trajectory.status.done and asked[-1] + 1 == len(trajectory.steps),
    )
