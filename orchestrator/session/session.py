"""One problem's search over a policy and a verifier: generation, overlapped scoring, budget and ledger.

The session owns what its search left in the pools: leaving its context frees every verifier state and aborts every
sequence. Steps are scored while the policy writes on. It needs neither ray nor torch, so strategies are tested on it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from orchestrator.core.account import Account, Amounts, affordable_tokens, share
from orchestrator.core.errors import PromptTooLong, UserError, first_error
from orchestrator.core.ledger import Budget, Ledger, Remaining
from orchestrator.core.nouns import EndReason, Problem, SearchResult, Selection, Status, Step, Trajectory
from orchestrator.core.protocols import (
    Answers,
    Finish,
    Generation,
    Policy,
    Sampling,
    Verifier,
    Workload,
)
from orchestrator.core.seeds import derive_seed
from orchestrator.session.scoring import Scoring
from orchestrator.session.sequences import LiveSequence, SequencesInFlight
from orchestrator.session.speculation import Speculation
from orchestrator.session.tracks import Track


class SearchSession:
    """Implements `Session`. Owner of the search's ledger and account."""

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
        self._run_seed = run_seed
        self._answers = answers
        self._ledger = Ledger()
        self._in_flight = SequencesInFlight(policy, self._spend)
        self._ahead = Speculation(self._in_flight, 0 if self._account.capped else speculation)
        self._scoring = Scoring(verifier, self._account, self._spend)
        self._root: Trajectory | None = None
        self._num_children: dict[tuple[int, ...], int] = {}
        self._num_writing = 0  # calls of `_write`
        self._returned = asyncio.Event()  # one of them ended
        self._deadlines: set[asyncio.Timeout] = set()  # theirs

    async def __aenter__(self) -> "SearchSession":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._in_flight.give_up(self._in_flight.sequences)
            if error is None:
                await self._in_flight.drain()
        finally:
            try:
                await self._scoring.close()
            finally:
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
        self._ahead.drop(prefixes)
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
            self._ahead.drop(prefixes)
        how = Generation(
            prefix_ids=(),
            max_tokens=self.sampling.max_tokens,
            seed=0,
            temperature=self.sampling.temperature if temperature is None else temperature,
            top_p=self.sampling.top_p,
            until_step=True,
            speculate=self._ahead.depth if temperature is None else 0,
        )
        return await self._write(prefixes, n, how, scored)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        tracks = [Track(trajectory=trajectory, shared_carry=trajectory.carry) for trajectory in trajectories]
        affordable, holds = [], []
        self._scoring.hold_prompt(trajectories)
        for track in tracks:
            tokens = self._scoring.unread(track.trajectory)
            amounts = {"verifier_tokens": tokens, "flops": tokens * self._scoring.flops_per_token}
            if self._account.fits(amounts):
                track.hold = self._account.hold(amounts)
                holds.append(track.hold)
                affordable.append(track)
            else:
                self.cut_short = True
        try:
            await self._scoring.read(affordable)
        finally:
            for hold in holds:
                hold.close()
        return [track.trajectory for track in tracks]

    async def group_answers(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        return await self._answers.group([trajectory.answer for trajectory in trajectories])

    async def inject(self, trajectories: Sequence[Trajectory], text: str) -> list[Trajectory]:
        [ids] = await self._policy.encode_text([text])
        self._ahead.drop(trajectories)
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
        self._ahead.drop(trajectories)
        self._scoring.free({t.carry for t in trajectories if t.carry is not None})

    def _hard_cap(self, trajectory: Trajectory) -> int:
        """How many tokens it may have: fewer where some were taken back, because those were sampled as well."""
        room = self._policy.context_length - len(trajectory.prompt_ids)
        return min(self.sampling.max_tokens - trajectory.retracted_tokens, room)

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
            assert track.sequence is not None
            track.sequence.arrived = arrived
        arrived.set()  # what ran ahead may have arrived already
        late = asyncio.timeout_at(self._deadline())
        try:
            async with late, asyncio.TaskGroup() as tasks:
                self._deadlines.add(late)
                news = asyncio.Event()
                if scored and writing:
                    tasks.create_task(self._scoring.read_on(writing, news))
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
            unwritten = [track.sequence for track in writing if track.sequence is not None and not track.written]
            self._in_flight.give_up(unwritten)
            for track in writing:
                if track.sequence is not None:
                    track.sequence.hold.close()
            self._deadlines.discard(late)
            self._num_writing -= 1
            self._returned.set()
        return [track.trajectory for track in tracks]

    def _deadline(self) -> float | None:
        """When the search must end, on the loop's clock."""
        left = self._account.seconds_left
        return None if left is None else asyncio.get_running_loop().time() + left

    async def _turn(self, tracks: list[Track], scored: bool) -> None:
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

    def _tracks(self, prefixes: Sequence[Trajectory], n: int) -> list[Track]:
        """One track per child; the first child of a prefix takes up the sequence that ran ahead of it."""
        tracks = []
        for prefix in prefixes:
            first = self._num_children.get(prefix.path, 0)
            self._num_children[prefix.path] = first + n
            ahead = self._ahead.take(prefix) if n else None
            for child in range(n):
                sequence = ahead if child == 0 else None
                tracks.append(
                    Track(
                        trajectory=replace(prefix, path=(*prefix.path, first + child)),
                        shared_carry=prefix.carry,
                        sequence=sequence,
                        hold=None if sequence is None else sequence.hold,
                    )
                )
        return tracks

    def _begin(self, tracks: list[Track], how: Generation, scored: bool) -> list[Track]:
        """Sends what is to be written, as far as the budget goes. The tracks that are being written."""
        new = [track for track in tracks if track.sequence is None]
        if scored:
            self._scoring.hold_prompt([track.trajectory for track in tracks])
        left = self._account.remaining
        late = left.seconds is not None and left.seconds <= 0
        allowed = len(new) if left.candidates is None else max(0, left.candidates)
        for track in new[allowed:]:
            self.cut_short = True
            track.trajectory, track.written = replace(track.trajectory, status=Status.PRUNED), True
        new = new[:allowed]
        sequences = []
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
            track.sequence = LiveSequence(request=request, hold=track.hold, hard_cap=hard_cap)
            sequences.append(track.sequence)
        self._in_flight.begin(sequences)
        return [track for track in tracks if track.sequence is not None]

    def _affordable(self, trajectory: Trajectory, left: Remaining, parts: int, index: int, scored: bool) -> int | None:
        """Tokens that one of so many equal parts of what is left pays for; None: no cap."""
        unread = self._scoring.unread(trajectory) if scored else 0
        caps = [share(left.policy_tokens, parts, index)]
        if scored and left.verifier_tokens is not None:
            caps.append((share(left.verifier_tokens, parts, index) or 0) - unread)
        if left.flops is not None:
            caps.append(
                affordable_tokens(
                    self._policy.shape,
                    prefix=len(trajectory.token_ids),
                    flops=left.flops / parts,
                    verifier_flops=self._scoring.flops_per_token if scored else 0.0,
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
            unread = self._scoring.unread(trajectory) + tokens
            amounts |= {"verifier_tokens": unread, "flops": flops + self._scoring.flops_per_token * unread}
        return amounts

    def _take(self, track: Track, how: Generation) -> None:
        """Moves what has arrived into the trajectory; what is past a boundary stays in the sequence."""
        sequence = track.sequence
        assert sequence is not None
        while not track.written and sequence.segments:
            segment, cost = sequence.segments.popleft()
            trajectory = replace(track.trajectory, cost=track.trajectory.cost + cost)
            if segment.token_ids:
                step = Step(token_ids=segment.token_ids, text=segment.text, logprob=segment.logprob)
                trajectory = trajectory.extended(step)
            track.written = segment.finish is not None or how.until_step
            if segment.finish is Finish.EOS:
                trajectory = self._ended(trajectory, Status.FINISHED, sequence)
            elif track.written and trajectory.num_tokens >= sequence.hard_cap:
                self.cut_short |= sequence.hard_cap < self._hard_cap(trajectory)
                trajectory = self._ended(trajectory, Status.TRUNCATED, sequence)
                self._in_flight.give_up([sequence])
            elif segment.finish is None and track.written:
                self._ahead.keep(trajectory, sequence)
            track.trajectory = trajectory
        if not track.written and sequence.error is not None:
            raise sequence.error
        assert track.written or not sequence.finished, "the policy ended without finishing every sequence"

    async def _cut(self, tracks: list[Track], how: Generation) -> None:
        """Time is up: what is unwritten ends here, with the steps that it has."""
        self.cut_short = True
        for track in tracks:
            if not track.written:
                assert track.sequence is not None
                self._take(track, how)
                self._in_flight.give_up([track.sequence])
        for track in tracks:
            if not track.written:
                track.trajectory, track.written = self._ended(track.trajectory, Status.TRUNCATED, track.sequence), True
            elif track.trajectory.status is Status.RUNNING:
                self._ahead.drop([track.trajectory])
                track.trajectory = self._ended(track.trajectory, Status.TRUNCATED, track.sequence)

    def _ended(self, trajectory: Trajectory, status: Status, sequence: LiveSequence | None = None) -> Trajectory:
        """A candidate; or pruned, when no more candidates are allowed. A sequence's is allowed since it began."""
        if sequence is not None:
            sequence.hold.use(candidates=1)
        elif self._account.left("candidates") == 0:
            self.cut_short = True
            return replace(trajectory, status=Status.PRUNED)
        else:
            self._account.spend(candidates=1)
        self._spend(Ledger(candidates=1))
        return replace(trajectory, status=status, answer=self._answers.extract(trajectory.text))

    def _spend(self, cost: Ledger) -> None:
        self._ledger += cost
