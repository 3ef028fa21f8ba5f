"""One problem's search over a policy and a verifier: generation, overlapped scoring, budget and ledger.

The session owns what its search left in the pools: leaving its context frees every verifier state and aborts every
sequence. Steps are scored while the policy writes on. It needs neither ray nor torch, so strategies are tested on it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType

from orchestrator.core.errors import PromptTooLong, UserError, first_error
from orchestrator.core.ledger import Budget, Ledger
from orchestrator.core.nouns import Carry, Problem, Status, Step, Trajectory
from orchestrator.core.protocols import Finish, Generation, Policy, Reading, Sampling, Segment, Verifier, Workload
from orchestrator.core.seeds import derive_seed


@dataclass(slots=True)
class _Track:
    """A child while it is being written: its value so far and how much of it has arrived."""

    trajectory: Trajectory
    hard_cap: int  # tokens after the prompt at which it is truncated
    shared_carry: Carry | None  # the prefix's state, which siblings fork from too
    request: Generation | None = None  # None: no room to write anything
    sampled: int = 0
    written: bool = False


class SearchSession:
    """Implements `Session`. Owner of the search's ledger, budget and verifier states."""

    def __init__(
        self,
        *,
        policy: Policy,
        verifier: Verifier | None,
        sampling: Sampling,
        budget: Budget,
        run_seed: int,
        extract_answer: Callable[[str], str | None],
    ) -> None:
        self.sampling = sampling
        self.workload: Workload | None = None  # set by the runner, where searches share a budget
        self._policy = policy
        self._verifier = verifier
        self._budget = budget
        self._run_seed = run_seed
        self._extract_answer = extract_answer
        self._ledger = Ledger()
        self._reserved = 0  # tokens promised to sequences in flight, not yet sampled
        self._num_children: dict[tuple[int, ...], int] = {}
        self._live: set[Carry] = set()
        self._prompt_carry: asyncio.Task[Carry | None] | None = None

    async def __aenter__(self) -> "SearchSession":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._prompt_carry is not None:
            self._prompt_carry.cancel()
            await asyncio.gather(self._prompt_carry, return_exceptions=True)
        self._free(self._live)

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def remaining_tokens(self) -> int | None:
        if self._budget.policy_tokens is None:
            return None
        return self._budget.policy_tokens - self._ledger.generated_tokens - self._reserved

    async def start(self, problem: Problem) -> Trajectory:
        [prompt_ids] = await self._policy.encode([problem])
        context = self._policy.context_length
        if len(prompt_ids) >= context:
            raise PromptTooLong(
                f"problem {problem.id}: the prompt has {len(prompt_ids)} tokens, "
                f"the policy's context is {context} tokens, answer included"
            )
        return Trajectory(problem=problem, prompt_ids=prompt_ids)

    async def rollout(
        self,
        prefixes: Sequence[Trajectory],
        n: int = 1,
        *,
        scored: bool = True,
        temperature: float | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> list[Trajectory]:
        tracks = self._tracks(prefixes, n, max_tokens, temperature, tuple(stop), until_step=False)
        return await self._write(tracks, scored)

    async def expand(
        self, prefixes: Sequence[Trajectory], n: int = 1, *, scored: bool = True, temperature: float | None = None
    ) -> list[Trajectory]:
        tracks = self._tracks(prefixes, n, None, temperature, (), until_step=True)
        return await self._write(tracks, scored)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        tracks = [_Track(trajectory=t, hard_cap=t.num_tokens, shared_carry=t.carry, written=True) for t in trajectories]
        await self._read(tracks)
        return [track.trajectory for track in tracks]

    async def inject(self, trajectories: Sequence[Trajectory], text: str) -> list[Trajectory]:
        [ids] = await self._policy.encode_text([text])
        injected = []
        for trajectory in trajectories:
            room = self._hard_cap(trajectory) - trajectory.num_tokens
            if len(ids) > room:
                injected.append(self._ended(trajectory, Status.TRUNCATED))
            else:
                injected.append(trajectory.extended(Step(token_ids=ids, text=text, forced=True)))
        return injected

    def retract(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        kept = []
        for trajectory in trajectories:
            *steps, last = trajectory.steps
            if not last.forced:
                self._spend(discarded_tokens=len(last.token_ids))
            if trajectory.status.done:
                self._spend(candidates=-1)
            kept.append(replace(trajectory, steps=tuple(steps), status=Status.RUNNING, answer=None, carry=None))
        self.release(trajectories)
        return kept

    def release(self, trajectories: Sequence[Trajectory]) -> None:
        self._free({t.carry for t in trajectories if t.carry is not None})

    # writing

    def _hard_cap(self, trajectory: Trajectory) -> int:
        return min(self.sampling.max_tokens, self._policy.context_length - len(trajectory.prompt_ids))

    def _tracks(
        self,
        prefixes: Sequence[Trajectory],
        n: int,
        max_tokens: int | None,
        temperature: float | None,
        stop: tuple[str, ...],
        until_step: bool,
    ) -> list[_Track]:
        """One track per child, its tokens reserved under the budget."""
        if any(prefix.status.done for prefix in prefixes):
            raise ValueError(f"only running trajectories can be continued, got {[p.status.value for p in prefixes]}")
        tracks = []
        for prefix in prefixes:
            first = self._num_children.get(prefix.path, 0)
            self._num_children[prefix.path] = first + n
            tracks += [
                _Track(
                    trajectory=replace(prefix, path=(*prefix.path, first + child)),
                    hard_cap=self._hard_cap(prefix),
                    shared_carry=prefix.carry,
                )
                for child in range(n)
            ]
        shares = _shares(self.remaining_tokens, len(tracks))
        for track, share in zip(tracks, shares, strict=True):
            trajectory = track.trajectory
            room = track.hard_cap - trajectory.num_tokens
            if share is not None and share < room:
                room, track.hard_cap = share, trajectory.num_tokens + share
            if max_tokens is not None:
                room = min(room, max_tokens)
            if room > 0:
                self._reserved += room
                track.request = Generation(
                    prefix_ids=trajectory.token_ids,
                    max_tokens=room,
                    seed=derive_seed(self._run_seed, trajectory.problem.id, trajectory.path),
                    temperature=self.sampling.temperature if temperature is None else temperature,
                    top_p=self.sampling.top_p,
                    until_step=until_step,
                    stop=stop,
                )
            else:
                track.trajectory = self._ended(trajectory, Status.TRUNCATED)
                track.written = True
        return tracks

    async def _write(self, tracks: list[_Track], scored: bool) -> list[Trajectory]:
        """Runs the requests of the tracks, scoring steps as they arrive."""
        writing = [track for track in tracks if track.request is not None]
        if scored and self._verifier is None:
            raise UserError("this strategy scores steps, but the run has no verifier: got verifier: null")
        arrived = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                if scored and writing:
                    tasks.create_task(self._read_on(writing, arrived))
                requests = [track.request for track in writing if track.request is not None]
                async with aclosing(self._policy.generate(requests)) as segments:
                    async for index, segment in segments:
                        self._append(writing[index], segment)
                        arrived.set()
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            for track in writing:
                assert track.request is not None
                self._reserved -= track.request.max_tokens - track.sampled
        assert all(track.written for track in tracks), "the policy ended without finishing every sequence"
        return [track.trajectory for track in tracks]

    def _append(self, track: _Track, segment: Segment) -> None:
        assert track.request is not None and not track.written
        sampled = len(segment.token_ids) + segment.discarded_tokens
        track.sampled += sampled
        self._reserved -= sampled
        self._spend(generated_tokens=sampled, discarded_tokens=segment.discarded_tokens)
        if segment.token_ids:
            track.trajectory = track.trajectory.extended(Step(token_ids=segment.token_ids, text=segment.text))
        if segment.finish is None:
            return
        track.written = True
        prefix = len(track.request.prefix_ids)
        self._spend(
            prompt_tokens=prefix,
            cached_tokens=segment.cached_tokens,
            policy_flops=self._policy.shape.flops(
                # the last sampled token is not read again
                new_tokens=prefix - segment.cached_tokens + max(track.sampled - 1, 0),
                context_tokens=segment.cached_tokens,
                logits=track.sampled,
            ),
        )
        if segment.finish is Finish.EOS:
            track.trajectory = self._ended(track.trajectory, Status.FINISHED)
        elif track.trajectory.num_tokens >= track.hard_cap:
            track.trajectory = self._ended(track.trajectory, Status.TRUNCATED)

    def _ended(self, trajectory: Trajectory, status: Status) -> Trajectory:
        self._spend(candidates=1)
        return replace(trajectory, status=status, answer=self._extract_answer(trajectory.text))

    # reading

    async def _read_on(self, tracks: list[_Track], arrived: asyncio.Event) -> None:
        """Scores steps of the tracks as they arrive, one batch at a time, until all are written and scored."""
        while True:
            await arrived.wait()
            arrived.clear()
            await self._read([track for track in tracks if _unscored(track.trajectory)])
            if all(track.written and not _unscored(track.trajectory) for track in tracks):
                return

    async def _read(self, tracks: list[_Track]) -> None:
        """Scores every unscored step of the tracks. A track may grow meanwhile; its new steps stay unscored."""
        tracks = [track for track in tracks if _unscored(track.trajectory)]
        if not tracks:
            return
        if self._verifier is None:
            raise UserError("nothing can be scored, because the run has no verifier: got verifier: null")
        prompt_carry = await self._read_prompt(tracks[0].trajectory.prompt_ids)
        readings, indices = [], []
        for track in tracks:
            trajectory = track.trajectory
            steps = _unscored(trajectory)
            ends, end = [], len(trajectory.prompt_ids)
            for index, step in enumerate(trajectory.steps):
                end += len(step.token_ids)
                if index in steps:
                    ends.append(end)
            own = trajectory.carry is not None and trajectory.carry != track.shared_carry
            carry = trajectory.carry or prompt_carry
            if carry is not None and ends[0] <= carry.num_tokens:  # it covers more than the first unscored step
                carry, own = prompt_carry, False
            readings.append(
                Reading(
                    token_ids=trajectory.token_ids[: ends[-1]],
                    boundaries=tuple(ends),
                    carry=carry,
                    keep_parent=not own,
                )
            )
            indices.append(steps)
        verdicts = await self._verifier.score(readings)
        for track, reading, steps, verdict in zip(tracks, readings, indices, verdicts, strict=True):
            scored = list(track.trajectory.steps)
            for index, score in zip(steps, verdict.scores, strict=True):
                scored[index] = replace(scored[index], score=score)
            if not reading.keep_parent and reading.carry is not None:
                self._live.discard(reading.carry)
            if verdict.carry is not None:
                self._live.add(verdict.carry)
            track.trajectory = replace(track.trajectory, steps=tuple(scored), carry=verdict.carry)
            self._spend(
                verifier_tokens=verdict.verifier_tokens,
                reingested_tokens=verdict.reingested_tokens,
                verifier_flops=verdict.flops,
            )
            if track.trajectory.status.done and not _unscored(track.trajectory):
                self.release([track.trajectory])
                track.trajectory = replace(track.trajectory, carry=None)

    async def _read_prompt(self, prompt_ids: tuple[int, ...]) -> Carry | None:
        """The state after the prompt, read once for the whole search."""
        if self._prompt_carry is None:
            self._prompt_carry = asyncio.ensure_future(self._carry_of(prompt_ids))
        return await asyncio.shield(self._prompt_carry)

    async def _carry_of(self, prompt_ids: tuple[int, ...]) -> Carry | None:
        assert self._verifier is not None
        [verdict] = await self._verifier.score([Reading(token_ids=prompt_ids, boundaries=())])
        self._spend(verifier_tokens=verdict.verifier_tokens, verifier_flops=verdict.flops)
        if verdict.carry is not None:
            self._live.add(verdict.carry)
        return verdict.carry

    # accounts

    def _free(self, carries: set[Carry]) -> None:
        owned = carries & self._live
        if owned and self._verifier is not None:
            self._live -= owned
            self._verifier.release(sorted(owned, key=lambda carry: carry.key))

    def _spend(self, **counts: int | float) -> None:
        self._ledger += Ledger(**counts)  # type: ignore[arg-type]


def _unscored(trajectory: Trajectory) -> list[int]:
    """Indices of the sampled steps that have no score yet."""
    return [i for i, step in enumerate(trajectory.steps) if step.score is None and not step.forced]


def _shares(tokens: int | None, parts: int) -> list[int | None]:
    """Splits what is left of a budget evenly, the first parts one token richer where it does not divide."""
    if tokens is None:
        return [None] * parts
    return [max(0, tokens) // parts + (i < max(0, tokens) % parts) for i in range(parts)] if parts else []
