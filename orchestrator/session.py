"""One problem's search over a policy and a verifier: generation, overlapped scoring, budget and ledger.

The session owns what its search left in the pools: leaving its context frees every verifier state and aborts every
sequence. Steps are scored while the policy writes on. It needs neither ray nor torch, so strategies are tested on it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from orchestrator.core.account import Account, Amounts, Hold, affordable_tokens, share
from orchestrator.core.errors import ProblemError, PromptTooLong, UserError, first_error
from orchestrator.core.ledger import Budget, Ledger, Remaining
from orchestrator.core.nouns import Carry, EndReason, Problem, SearchResult, Selection, Status, Step, Trajectory
from orchestrator.core.protocols import (
    Answers,
    Finish,
    Generation,
    Policy,
    Reading,
    Sampling,
    Solution,
    Verdict,
    Verifier,
    Workload,
)
from orchestrator.core.seeds import derive_seed
from orchestrator.writing import InFlight, Writer

_FIRST_TAILS = 4  # decided before it is judged whether speculation pays


@dataclass(slots=True)
class _Track:
    """A child while it is being written: its value so far and where the rest comes from."""

    trajectory: Trajectory
    shared_carry: Carry | None  # the prefix's state, which siblings fork from too
    writer: Writer | None = None  # None: nothing is to be written
    hold: Hold | None = None  # what may be spent on it
    written: bool = False


@dataclass(slots=True)
class _Tail:
    """What is being written past the boundary at which a trajectory was handed out."""

    writer: Writer
    num_tokens: int  # of that trajectory: it says no more than that when the tail is taken up


class SearchSession:
    """Implements `Session`. Owner of the search's ledger, account, tails and verifier states."""

    def __init__(
        self,
        *,
        policy: Policy,
        verifier: Verifier | None,
        sampling: Sampling,
        budget: Budget,
        run_seed: int,
        answers: Answers,
        speculation: int = 0,
        run_account: Account | None = None,
        selection: Selection = Selection.SCORE,
    ) -> None:
        """`speculation`: steps that a child of `expand` may be written on while it is scored, on spare capacity.

        Nothing is spent on it under a cap on tokens, FLOPs or candidates, nor once less than half of it is kept.
        """
        self.sampling = sampling
        self.selection = selection
        self.cut_short = False  # a cap of the budget ended something
        self.workload: Workload | None = None  # set by the runner, where searches share a budget
        self._policy = policy
        self._verifier = verifier
        self._account = Account(budget, run_account)
        self._speculation = 0 if self._account.capped else speculation
        self._run_seed = run_seed
        self._answers = answers
        self._ledger = Ledger()
        self._in_flight = InFlight(policy, self._spend)
        self._tails: dict[tuple[int, ...], _Tail] = {}
        self._tails_taken, self._tails_dropped = 0, 0
        self._root: Trajectory | None = None
        self._num_children: dict[tuple[int, ...], int] = {}
        self._num_writing = 0  # calls of `_write`
        self._returned = asyncio.Event()  # one of them ended
        self._deadlines: set[asyncio.Timeout] = set()  # theirs
        self._live: set[Carry] = set()
        self._prompt_carry: asyncio.Task[Carry | None] | None = None
        self._prompt_hold: Hold | None = None  # for reading it

    async def __aenter__(self) -> "SearchSession":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._in_flight.give_up(self._in_flight.writers)
            if error is None:
                await self._in_flight.drain()
        finally:
            self._free(self._live)  # before anything is waited for: this may be cancelled again
            if self._prompt_hold is not None:
                self._prompt_hold.close()
            if self._prompt_carry is not None:
                self._prompt_carry.cancel()
                await asyncio.gather(self._prompt_carry, return_exceptions=True)
                self._free(self._live)
            await self._in_flight.close()

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def remaining(self) -> Remaining:
        return self._account.remaining

    def end_within(self, seconds: float) -> None:
        """Leaves the search so many seconds at most, from now on: then the best answer so far counts."""
        self._account.end_within(seconds)
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(self._deadline())

    def concluded(self, result: SearchResult) -> SearchResult:
        """The result of the search, which says so where a cap of the budget cut it short."""
        return replace(result, end_reason=EndReason.BUDGET) if self.cut_short else result

    async def start(self, problem: Problem) -> Trajectory:
        if self._root is None or self._root.problem != problem:
            self._root = await self._start(problem)
        return self._root

    async def _start(self, problem: Problem) -> Trajectory:
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
        logprobs: bool = False,
    ) -> list[Trajectory]:
        self._drop_tails(prefixes)
        how = Generation(
            prefix_ids=(),
            max_tokens=self.sampling.max_tokens if max_tokens is None else max_tokens,
            seed=0,
            temperature=self.sampling.temperature if temperature is None else temperature,
            top_p=self.sampling.top_p,
            stop=tuple(stop),
            logprobs=logprobs,
            eager=scored,
        )
        return await self._write(prefixes, n, how, scored)

    async def expand(
        self, prefixes: Sequence[Trajectory], n: int = 1, *, scored: bool = True, temperature: float | None = None
    ) -> list[Trajectory]:
        if temperature is not None:
            self._drop_tails(prefixes)
        how = Generation(
            prefix_ids=(),
            max_tokens=self.sampling.max_tokens,
            seed=0,
            temperature=self.sampling.temperature if temperature is None else temperature,
            top_p=self.sampling.top_p,
            until_step=True,
            speculate=self._speculation if temperature is None and self._speculation_pays else 0,
        )
        return await self._write(prefixes, n, how, scored)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        tracks = [_Track(trajectory=trajectory, shared_carry=trajectory.carry) for trajectory in trajectories]
        affordable, holds = [], []
        self._hold_prompt(trajectories)
        for track in tracks:
            tokens, left = self._unread(track.trajectory), self._account.remaining
            flops = tokens * self._verifier.flops_per_token if self._verifier is not None else 0.0
            if _fits(tokens, left.verifier_tokens) and _fits(flops, left.flops):
                track.hold = self._account.hold({"verifier_tokens": tokens, "flops": flops})
                holds.append(track.hold)
                affordable.append(track)
            else:
                self.cut_short = True
        try:
            await self._read(affordable)
        finally:
            for hold in holds:
                hold.close()
        return [track.trajectory for track in tracks]

    async def group_answers(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        return await self._answers.group([trajectory.answer for trajectory in trajectories])

    async def inject(self, trajectories: Sequence[Trajectory], text: str) -> list[Trajectory]:
        [ids] = await self._policy.encode_text([text])
        self._drop_tails(trajectories)
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
            sampled = 0 if last.forced else len(last.token_ids)
            lost = Ledger(discarded_tokens=sampled, candidates=-int(trajectory.status.done))
            self._spend(lost)
            self._account.spend(candidates=lost.candidates)
            kept.append(
                replace(
                    trajectory,
                    steps=tuple(steps),
                    status=Status.RUNNING,
                    answer=None,
                    carry=None,
                    cost=trajectory.cost + lost,
                    unjudged=None,
                    retracted_tokens=trajectory.retracted_tokens + sampled,
                )
            )
        self.release(trajectories)
        return kept

    def release(self, trajectories: Sequence[Trajectory]) -> None:
        self._drop_tails(trajectories)
        self._free({t.carry for t in trajectories if t.carry is not None})

    # writing

    def _hard_cap(self, trajectory: Trajectory) -> int:
        """How many tokens it may have: fewer where some were taken back, because those were sampled as well."""
        room = self._policy.context_length - len(trajectory.prompt_ids)
        return min(self.sampling.max_tokens - trajectory.retracted_tokens, room)

    @property
    def _speculation_pays(self) -> bool:
        """Whether this search keeps at least half of what was written ahead for it: where few children survive, as in
        a beam with several children each, most of it would be thrown away."""
        return self._tails_taken >= self._tails_dropped or self._tails_taken + self._tails_dropped < _FIRST_TAILS

    def _drop_tails(self, trajectories: Sequence[Trajectory]) -> None:
        tails = [tail for t in trajectories if (tail := self._tails.pop(t.path, None)) is not None]
        self._tails_dropped += len(tails)
        self._in_flight.give_up([tail.writer for tail in tails])

    async def _write(self, prefixes: Sequence[Trajectory], n: int, how: Generation, scored: bool) -> list[Trajectory]:
        """The children of the prefixes, as `how` says, with their steps scored as they arrive."""
        if scored and self._verifier is None:
            raise UserError("this strategy scores steps, but the run has no verifier: got verifier: null")
        if any(prefix.status.done for prefix in prefixes):
            raise ValueError(f"only running trajectories can be continued, got {[p.status.value for p in prefixes]}")
        tracks = self._tracks(prefixes, n)
        await self._turn(tracks, scored)
        writing = self._begin(tracks, how, scored)
        self._num_writing += 1
        arrived = asyncio.Event()
        for track in writing:
            assert track.writer is not None
            track.writer.arrived = arrived
        arrived.set()  # a tail may have written already
        late = asyncio.timeout_at(self._deadline())
        try:
            async with late, asyncio.TaskGroup() as tasks:
                self._deadlines.add(late)
                news = asyncio.Event()
                if scored and writing:
                    tasks.create_task(self._read_on(writing, news))
                while not all(track.written for track in writing):
                    await arrived.wait()
                    arrived.clear()
                    for track in writing:
                        self._take(track, how)
                    news.set()
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        except TimeoutError:
            if not late.expired():
                raise
            await self._cut(writing, how)
        finally:
            unwritten = [track.writer for track in writing if track.writer is not None and not track.written]
            self._in_flight.give_up(unwritten)
            for track in writing:
                if track.writer is not None:
                    track.writer.hold.close()
            self._deadlines.discard(late)
            self._num_writing -= 1
            self._returned.set()
        return [track.trajectory for track in tracks]

    def _deadline(self) -> float | None:
        """When the search must end, on the loop's clock."""
        left = self._account.seconds_left
        return None if left is None else asyncio.get_running_loop().time() + left

    async def _turn(self, tracks: list[_Track], scored: bool) -> None:
        """Where the budget is too tight for all of it, waits for what other calls of this search give back."""
        while self._num_writing and self._account.capped:
            left, parts = self._account.remaining, len(tracks)
            tight = left.candidates is not None and left.candidates < parts
            for index, track in enumerate(tracks):
                affordable = self._affordable(track.trajectory, left, parts, index, scored)
                room = self._hard_cap(track.trajectory) - track.trajectory.num_tokens
                tight |= affordable is not None and affordable < room
            if not tight:
                return
            self._returned.clear()
            await self._returned.wait()

    def _tracks(self, prefixes: Sequence[Trajectory], n: int) -> list[_Track]:
        """One track per child; the first one of a prefix that was written on takes its tail up."""
        tracks = []
        for prefix in prefixes:
            first = self._num_children.get(prefix.path, 0)
            self._num_children[prefix.path] = first + n
            tail = self._tails.pop(prefix.path, None) if n else None
            if tail is not None and tail.num_tokens != prefix.num_tokens:
                self._in_flight.give_up([tail.writer])
                tail = None
            self._tails_taken += tail is not None
            tracks += [
                _Track(
                    trajectory=replace(prefix, path=(*prefix.path, first + child)),
                    shared_carry=prefix.carry,
                    writer=tail.writer if tail is not None and child == 0 else None,
                    hold=tail.writer.hold if tail is not None and child == 0 else None,
                )
                for child in range(n)
            ]
        return tracks

    def _begin(self, tracks: list[_Track], how: Generation, scored: bool) -> list[_Track]:
        """Sends what is to be written, as far as the budget goes. The tracks that are being written."""
        new = [track for track in tracks if track.writer is None]
        if scored:
            self._hold_prompt([track.trajectory for track in tracks])
        left = self._account.remaining
        late = left.seconds is not None and left.seconds <= 0
        allowed = len(new) if left.candidates is None else max(0, left.candidates)
        for track in new[allowed:]:
            self.cut_short = True
            track.trajectory, track.written = replace(track.trajectory, status=Status.PRUNED), True
        new = new[:allowed]
        writers = []
        for index, track in enumerate(new):
            trajectory = track.trajectory
            hard_cap = self._hard_cap(trajectory)
            room = hard_cap - trajectory.num_tokens
            affordable = 0 if late else self._affordable(trajectory, left, len(new), index, scored)
            if affordable is not None and affordable < room:
                room, hard_cap = affordable, trajectory.num_tokens + affordable
            room = min(room, how.max_tokens)
            if room <= 0:
                self.cut_short |= hard_cap < self._hard_cap(trajectory)
                track.trajectory, track.written = self._ended(trajectory, Status.TRUNCATED), True
                continue
            request = replace(
                how,
                prefix_ids=trajectory.token_ids,
                max_tokens=room,
                seed=derive_seed(self._run_seed, trajectory.problem.id, trajectory.path),
            )
            track.hold = self._account.hold(self._amounts(trajectory, room, scored))
            track.writer = Writer(request=request, hold=track.hold, hard_cap=hard_cap)
            writers.append(track.writer)
        self._in_flight.begin(writers)
        return [track for track in tracks if track.writer is not None]

    def _affordable(self, trajectory: Trajectory, left: Remaining, parts: int, index: int, scored: bool) -> int | None:
        """Tokens that one of so many equal parts of what is left pays for; None: no cap."""
        unread = self._unread(trajectory) if scored else 0
        caps = [share(left.policy_tokens, parts, index)]
        if scored and left.verifier_tokens is not None:
            caps.append((share(left.verifier_tokens, parts, index) or 0) - unread)
        if left.flops is not None:
            caps.append(
                affordable_tokens(
                    self._policy.shape,
                    prefix=len(trajectory.token_ids),
                    flops=left.flops / parts,
                    verifier_flops=self._verifier.flops_per_token if scored and self._verifier is not None else 0.0,
                    unread=unread,
                )
            )
        return min((cap for cap in caps if cap is not None), default=None)

    def _amounts(self, trajectory: Trajectory, tokens: int, scored: bool) -> Amounts:
        """The most that writing and reading so many tokens can cost."""
        prefix = len(trajectory.token_ids)
        flops = self._policy.shape.flops(new_tokens=prefix + tokens, context_tokens=0, logits=tokens)
        amounts: dict[str, float] = {"policy_tokens": tokens, "candidates": 1, "flops": flops}
        if scored and self._verifier is not None:
            unread = self._unread(trajectory) + tokens
            amounts |= {"verifier_tokens": unread, "flops": flops + self._verifier.flops_per_token * unread}
        return amounts

    def _take(self, track: _Track, how: Generation) -> None:
        """Moves what has arrived into the trajectory; what is past a boundary stays in the writer, as a tail."""
        writer = track.writer
        assert writer is not None
        while not track.written and writer.segments:
            segment, cost = writer.segments.popleft()
            trajectory = replace(track.trajectory, cost=track.trajectory.cost + cost)
            if segment.token_ids:
                step = Step(token_ids=segment.token_ids, text=segment.text, logprob=segment.logprob)
                trajectory = trajectory.extended(step)
            track.written = segment.finish is not None or how.until_step
            if segment.finish is Finish.EOS:
                trajectory = self._ended(trajectory, Status.FINISHED, writer)
            elif track.written and trajectory.num_tokens >= writer.hard_cap:
                self.cut_short |= writer.hard_cap < self._hard_cap(trajectory)
                trajectory = self._ended(trajectory, Status.TRUNCATED, writer)
                self._in_flight.give_up([writer])
            elif segment.finish is None and track.written:
                self._tails[trajectory.path] = _Tail(writer, trajectory.num_tokens)
            track.trajectory = trajectory
        if not track.written and writer.error is not None:
            raise writer.error
        assert track.written or not writer.finished, "the policy ended without finishing every sequence"

    async def _cut(self, tracks: list[_Track], how: Generation) -> None:
        """Time is up: what is unwritten ends here, with the steps that it has."""
        self.cut_short = True
        for track in tracks:
            if not track.written:
                assert track.writer is not None
                self._take(track, how)
                self._in_flight.give_up([track.writer])
        for track in tracks:
            if not track.written:
                track.trajectory, track.written = self._ended(track.trajectory, Status.TRUNCATED, track.writer), True
            elif track.trajectory.status is Status.RUNNING:
                self._drop_tails([track.trajectory])
                track.trajectory = self._ended(track.trajectory, Status.TRUNCATED, track.writer)

    def _ended(self, trajectory: Trajectory, status: Status, writer: Writer | None = None) -> Trajectory:
        """A candidate; or pruned, when no more candidates are allowed. A writer's is allowed since it began."""
        if writer is not None:
            writer.hold.use(candidates=1)
        elif self._account.left("candidates") == 0:
            self.cut_short = True
            return replace(trajectory, status=Status.PRUNED)
        else:
            self._account.spend(candidates=1)
        self._spend(Ledger(candidates=1))
        return replace(trajectory, status=status, answer=self._answers.extract(trajectory.text))

    # reading

    async def _read_on(self, tracks: list[_Track], news: asyncio.Event) -> None:
        """Scores steps of the tracks as they are taken, one batch at a time, until all are written and scored."""
        while True:
            await news.wait()
            news.clear()
            await self._read(tracks)
            if all(track.written and not self._due(track.trajectory) for track in tracks):
                return

    async def _read(self, tracks: list[_Track]) -> None:
        """Scores every step of the tracks that is due. A track may grow meanwhile; its new steps stay unscored."""
        tracks = [track for track in tracks if self._due(track.trajectory)]
        if not tracks:
            return
        if self._verifier is None:
            raise UserError("nothing can be scored, because the run has no verifier: got verifier: null")
        prompt_carry = await self._read_prompt(tracks[0].trajectory.prompt_ids)
        readings, indices = [], []
        for track in tracks:
            trajectory = track.trajectory
            steps = self._due(trajectory)
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
            if not reading.keep_parent and reading.carry is not None:
                self._live.discard(reading.carry)
            if verdict.carry is not None:
                self._live.add(verdict.carry)
            cost = self._charge(verdict, seconds, track.hold)
            track.trajectory = replace(
                track.trajectory,
                steps=tuple(scored),
                carry=verdict.carry,
                cost=track.trajectory.cost + cost,
                unjudged=verdict.unjudged,
            )
            if track.trajectory.status.done and not self._due(track.trajectory):
                self.release([track.trajectory])
                track.trajectory = replace(track.trajectory, carry=None)

    def _due(self, trajectory: Trajectory) -> list[int]:
        """Indices of the sampled steps that are to be scored and have no score yet: of a verifier that judges whole
        solutions only, the last step of one that has ended. None of what it could not judge."""
        steps = trajectory.steps
        if trajectory.unjudged is not None:
            return []
        if self._verifier is not None and not self._verifier.scores_steps:
            first = len(steps) - 1 if trajectory.status.done else len(steps)
        else:
            first = 0
        return [i for i in range(max(0, first), len(steps)) if steps[i].score is None and not steps[i].forced]

    async def _read_prompt(self, prompt_ids: tuple[int, ...]) -> Carry | None:
        """The state after the prompt, read once for the whole search; None where no state is carried."""
        assert self._verifier is not None
        if not self._verifier.reads_tokens:
            return None
        if self._prompt_carry is None:
            self._prompt_carry = asyncio.ensure_future(self._carry_of(prompt_ids))
        return await asyncio.shield(self._prompt_carry)

    async def _carry_of(self, prompt_ids: tuple[int, ...]) -> Carry | None:
        assert self._verifier is not None
        began = time.monotonic()
        [verdict] = await self._verifier.score([Reading(token_ids=prompt_ids, boundaries=())])
        if verdict.carry is not None:
            self._live.add(verdict.carry)
        self._charge(verdict, time.monotonic() - began, self._prompt_hold)
        if verdict.unjudged is not None:
            raise ProblemError(f"the verifier can't read the problem: {verdict.unjudged}")
        return verdict.carry

    def _hold_prompt(self, trajectories: Sequence[Trajectory]) -> None:
        """Promises what reading the prompt takes, once, before anything else is."""
        if self._prompt_hold is None and trajectories and self._verifier is not None:
            tokens = len(trajectories[0].prompt_ids)
            flops = tokens * self._verifier.flops_per_token
            self._prompt_hold = self._account.hold({"verifier_tokens": tokens, "flops": flops})

    def _unread(self, trajectory: Trajectory) -> int:
        """Tokens of the trajectory that the verifier must read before new ones; the prompt counts as read."""
        covered = len(trajectory.prompt_ids) if trajectory.carry is None else trajectory.carry.num_tokens
        return len(trajectory.token_ids) - covered

    # accounts

    def _charge(self, verdict: Verdict, seconds: float, hold: Hold | None) -> Ledger:
        """Books a reading. What was read again is not taken from the budget."""
        cost = Ledger(
            verifier_tokens=verdict.verifier_tokens,
            reingested_tokens=verdict.reingested_tokens,
            verifier_flops=verdict.flops,
            verifier_s=seconds,
        )
        state_bytes = 0 if self._verifier is None else self._verifier.state_bytes * len(self._live)
        self._spend(replace(cost, peak_state_bytes=state_bytes))
        share_new = 1 - verdict.reingested_tokens / max(1, verdict.verifier_tokens)
        assert hold is not None, "nothing is read that was not promised"
        hold.use(verifier_tokens=verdict.verifier_tokens - verdict.reingested_tokens, flops=verdict.flops * share_new)
        return cost

    def _free(self, carries: set[Carry]) -> None:
        owned = carries & self._live
        if owned and self._verifier is not None:
            self._live -= owned
            self._verifier.release(sorted(owned, key=lambda carry: carry.key))

    def _spend(self, cost: Ledger) -> None:
        self._ledger += cost


def _as_text(trajectory: Trajectory, asked: Sequence[int]) -> Solution:
    num_steps = asked[-1] + 1
    return Solution(
        problem=trajectory.problem,
        steps=tuple(step.text for step in trajectory.steps[:num_steps]),
        asked=tuple(asked),
        ended=trajectory.status.done and num_steps == len(trajectory.steps),
    )


def _fits(amount: float, left: float | None) -> bool:
    return left is None or amount <= left
