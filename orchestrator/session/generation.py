"""How a session writes: children of prefixes, as far as the budget goes, with their steps scored as they arrive."""

import asyncio
from collections.abc import Callable, Sequence

from orchestrator.core.account import Amounts, PlannedSequence, total
from orchestrator.core.alternatives import ReadToken
from orchestrator.core.errors import UserError, first_error
from orchestrator.core.nouns import EndReason, Status, Step, Trajectory
from orchestrator.core.protocols import Finish, Generation, Policy, Sampling
from orchestrator.core.seeds import derive_seed
from orchestrator.core.values import changed
from orchestrator.session.books import Books
from orchestrator.session.calls import know_calls
from orchestrator.session.reading import read_back
from orchestrator.session.scoring import Scoring
from orchestrator.session.sequences import LiveSequence, SequencesInFlight
from orchestrator.session.speculation import Speculation
from orchestrator.session.telling import Telling
from orchestrator.session.tracks import Track, forks_of


class Writing:
    """Owner of a search's sequences in the policy. A child of a prefix is drawn with a seed of its own path."""

    def __init__(
        self,
        *,
        policy: Policy,
        sampling: Sampling,
        run_seed: int,
        extract: Callable[[str], str | None],
        books: Books,
        scoring: Scoring,
        speculation: int,
        telling: Telling | None,
    ) -> None:
        """`extract` finds the answer in the reply of a trajectory that has ended."""
        self._policy = policy
        self._sampling = sampling
        self._run_seed = run_seed
        self._extract = extract
        self._books = books
        self._scoring = scoring
        self._telling = telling
        self._in_flight = SequencesInFlight(policy, books.tally.add)
        self.ahead = Speculation(self._in_flight, 0 if books.account.capped else speculation)
        self._num_children: dict[tuple[int, ...], int] = {}
        self._num_writing = 0  # calls of `write`
        self._returned = asyncio.Event()  # one of them ended
        self._deadlines: set[asyncio.Timeout] = set()  # theirs
        self._end_of_thinking: Step | None = None  # once it may be needed

    async def read_back(self, readings: Sequence[Generation]) -> list[tuple[ReadToken, ...] | None]:
        """What the policy thinks of tokens that are written; None where the budget does not pay for asking."""
        return await read_back(readings, self._policy, self._in_flight, self._books)

    async def drain(self) -> None:
        """Waits until all that was given up is accounted for."""
        await self._in_flight.drain()

    def give_up(self) -> None:
        """Nobody waits for what is being written any more."""
        self._in_flight.give_up(self._in_flight.sequences)

    async def close(self) -> None:
        await self._in_flight.close()

    def goes_on(self, trajectory: Trajectory) -> bool:
        """Whether children of it were begun."""
        return trajectory.path in self._num_children

    def reschedule(self) -> None:
        """The search's end has moved."""
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(self._deadline())

    def hard_cap(self, trajectory: Trajectory) -> int:
        """How many tokens it may have: fewer where some were taken back, because those were sampled as well."""
        room = self._policy.context_length - len(trajectory.prompt_ids)
        return min(self._sampling.max_tokens - trajectory.retracted_tokens, room)

    async def write(self, prefixes: Sequence[Trajectory], n: int, how: Generation, scored: bool) -> list[Trajectory]:
        """The children of the prefixes, as `how` says, with their steps scored as they arrive."""
        if scored and not self._scoring.possible:
            raise UserError("this strategy scores steps, but the run has no verifier: got verifier: null")
        if any(prefix.status.done for prefix in prefixes):
            raise ValueError(f"only running trajectories can be continued, got {[p.status.value for p in prefixes]}")
        await self._know_marker()
        tracks = self._tracks(prefixes, n)
        await self._turn(tracks, scored)
        writing = self._begin(tracks, how, scored)
        self._num_writing += 1
        arrived = asyncio.Event()
        for track in writing:
            assert track.sequence is not None
            track.sequence.arrived, track.sequence.in_call = arrived, True
        arrived.set()  # what ran ahead may have arrived already
        late = asyncio.timeout_at(self._deadline())
        try:
            async with late, asyncio.TaskGroup() as tasks:
                self._deadlines.add(late)
                news = asyncio.Event()
                if scored and writing:
                    tasks.create_task(self._scoring.read_on(writing, news))
                unwritten = writing
                while unwritten:
                    await arrived.wait()
                    arrived.clear()
                    for track in unwritten:
                        self._take(track, how)
                    unwritten = [track for track in unwritten if not track.written]
                    news.set()
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        except TimeoutError:
            if not late.expired():
                raise
            await self._cut(writing, how)
        finally:
            for track in writing:
                assert track.sequence is not None
                if not track.written:
                    self._in_flight.give_up([track.sequence])
                    if self._telling is not None:
                        self._telling.prune(track.path)
                track.sequence.in_call = False
                if not track.sequence.aborting:
                    track.sequence.hold.close()
            self._deadlines.discard(late)
            self._num_writing -= 1
            self._returned.set()
        await know_calls(tracks, self._policy)
        if self._telling is not None:
            self._telling.budget()
        return [track.trajectory() for track in tracks]

    def _deadline(self) -> float | None:
        """When the search must end, on the loop's clock."""
        left = self._books.account.seconds_left
        return None if left is None else asyncio.get_running_loop().time() + left

    async def _turn(self, tracks: list[Track], scored: bool) -> None:
        """Secures what all of it may cost. Where the budget is too tight for that, waits for what other calls of this
        search give back."""
        while self._books.account.capped:
            await self._books.account.secure(self._most(tracks, scored))
            if not self._num_writing:
                return
            left, parts = self._books.account.secured, len(tracks)
            tight = left.candidates is not None and left.candidates < parts
            for index, track in enumerate(tracks):
                affordable = self._planned(track, scored).affordable(left, parts=parts, index=index)
                room = self.hard_cap(track.prefix) - track.num_tokens
                tight |= affordable is not None and affordable < room
            if not tight:
                return
            self._returned.clear()
            await self._returned.wait()

    def _tracks(self, prefixes: Sequence[Trajectory], n: int) -> list[Track]:
        """One track per child; the first child of a prefix takes up the sequence that ran ahead of it."""
        tracks: list[Track] = []
        for prefix in prefixes:
            first = self._num_children.get(prefix.path, 0)
            self._num_children[prefix.path] = first + n
            forks = forks_of(prefix, [(*prefix.path, child) for child in range(first, first + n)])
            if forks and (ahead := self.ahead.take(prefix)) is not None:
                forks[0].sequence, forks[0].hold = ahead, ahead.hold
            if self._telling is not None:
                self._telling.fork(prefix, forks)
            tracks += forks
        return tracks

    def _begin(self, tracks: list[Track], how: Generation, scored: bool) -> list[Track]:
        """Sends what is to be written, as far as the budget goes. The tracks that are being written."""
        new = [track for track in tracks if track.sequence is None]
        if scored:
            self._scoring.hold_prompt(tracks)
        left, capped = self._books.account.secured, self._books.account.capped
        late = left.seconds is not None and left.seconds <= 0
        allowed = len(new) if left.candidates is None else max(0, left.candidates)
        for track in new[allowed:]:
            self._books.cut(EndReason.BUDGET)
            track.status, track.written = Status.PRUNED, True
            if self._telling is not None:
                self._telling.prune(track.path)
        new = new[:allowed]
        sequences = []
        for index, track in enumerate(new):
            most_thinking = self._thinking_left(track)
            hard_cap = self.hard_cap(track.prefix)
            if most_thinking is not None and most_thinking <= 0:
                self._end_thinking(track, hard_cap)
                most_thinking = None
            room = hard_cap - track.num_tokens
            planned = self._planned(track, scored) if capped else None
            affordable = None if planned is None else planned.affordable(left, parts=len(new), index=index)
            if late:
                affordable = 0
            if affordable is not None and affordable < room:
                room, hard_cap = affordable, track.num_tokens + affordable
            room = min(room, how.max_tokens)
            if room <= 0:
                if hard_cap < self.hard_cap(track.prefix):
                    self._books.cut(EndReason.DEADLINE if late else EndReason.BUDGET)
                self.end(track, Status.TRUNCATED)
                continue
            track.hold = self._books.account.hold({} if planned is None else planned.amounts(room))
            track.sequence = LiveSequence(
                request=changed(
                    how,
                    prefix_ids=track.token_ids,
                    num_prompt=len(track.prefix.prompt_ids),
                    seen=self._seen(track),
                    max_tokens=room,
                    max_thinking=most_thinking,
                    json_schema=track.prefix.problem.json_schema,
                    seed=derive_seed(self._run_seed, track.prefix.problem.id, track.path),
                ),
                hold=track.hold,
                hard_cap=hard_cap,
            )
            sequences.append(track.sequence)
        self._in_flight.begin(sequences)
        return [track for track in tracks if track.sequence is not None]

    def _most(self, tracks: list[Track], scored: bool) -> Amounts:
        """With so much no track is cut by a budget, of which each has an equal part."""
        most: dict[str, float] = {}
        for track in tracks:
            room = self.hard_cap(track.prefix) - track.num_tokens
            for kind, amount in self._planned(track, scored).amounts(max(0, room)).items():
                most[kind] = max(most.get(kind, 0), amount)
        parts = {kind: len(tracks) * amount for kind, amount in most.items()}
        return total([parts, self._scoring.prompt_cost(tracks) if scored else {}])

    def _planned(self, track: Track, scored: bool) -> PlannedSequence:
        return PlannedSequence(
            shape=self._policy.shape,
            prefix=len(track.token_ids),
            scored=scored,
            unread=self._scoring.unread(track) if scored else 0,
            verifier_flops_per_token=self._scoring.flops_per_token if scored else 0.0,
            most_thinking=self._thinking_left(track),
            marker=0 if self._end_of_thinking is None else len(self._end_of_thinking.token_ids),
        )

    def _take(self, track: Track, how: Generation) -> None:
        """Moves what has arrived into the track; what is past a boundary stays in the sequence."""
        sequence = track.sequence
        assert sequence is not None
        while not track.written and sequence.segments:
            segment, cost = sequence.segments.popleft()
            if segment.early is not None:
                if self._telling is not None:
                    self._telling.early(track, segment)
                continue
            track.cost.add(cost)
            stopped = None
            if segment.finish is Finish.STOP:
                stopped = self._sampling.stopped_at(self._seen(track), segment.text)
            track.stopped = segment.finish is Finish.STOP and stopped is None
            if segment.token_ids or segment.text:  # a chat API tells a thought without its tokens
                track.append(
                    Step(
                        token_ids=segment.token_ids,
                        text=segment.text if stopped is None else segment.text[: max(0, stopped)],
                        logprob=segment.logprob,
                        confidence=segment.confidence,
                        thinking=segment.thinking,
                    )
                )
            if stopped is not None and stopped < 0:
                track.shorten(-stopped)
            thought = segment.finish is Finish.THOUGHT and self._end_thinking(track, sequence.hard_cap)
            track.written = how.until_step if thought else segment.finish is not None or how.until_step
            if segment.finish is Finish.EOS or stopped is not None:
                self.end(track, Status.FINISHED)
            elif segment.finish is Finish.THOUGHT and not thought:
                self.end(track, Status.TRUNCATED)
            elif track.written and track.num_tokens >= sequence.hard_cap:
                if sequence.hard_cap < self.hard_cap(track.prefix):
                    self._books.cut(EndReason.BUDGET)
                self.end(track, Status.TRUNCATED)
                self._in_flight.give_up([sequence])
            elif segment.finish is None and track.written:
                self.ahead.keep(track, sequence)
            if self._telling is not None and not track.status.done:
                self._telling.steps(track)
            if thought and not track.written:
                sequence = self._go_on(track, sequence, how, discarded=segment.discarded_tokens)
        if not track.written and sequence.error is not None:
            raise sequence.error
        assert track.written or not sequence.finished, "the policy ended without finishing every sequence"

    def _seen(self, track: Track) -> str:
        """The end of its text, where a stop text may have begun."""
        return self._sampling.seen(track.text) if self._sampling.stop else ""

    def _go_on(self, track: Track, thought: LiveSequence, how: Generation, *, discarded: int) -> LiveSequence:
        """The sequence that goes on where the thinking was ended; it has what that one left of its tokens. Where there
        is a budget, that pays for those which were sampled past the end and `discarded`."""
        hard_cap = thought.hard_cap
        affordable = thought.request.max_tokens - thought.sampled
        room = min(hard_cap - track.num_tokens, affordable + discarded)
        if self._books.account.capped and affordable < room:
            room, hard_cap = affordable, track.num_tokens + affordable
        if room <= 0:
            if hard_cap < self.hard_cap(track.prefix):
                self._books.cut(EndReason.BUDGET)
            self.end(track, Status.TRUNCATED)
            return thought
        request = changed(
            how,
            prefix_ids=track.token_ids,
            num_prompt=len(track.prefix.prompt_ids),
            seen=self._seen(track),
            max_tokens=room,
            seed=derive_seed(self._run_seed, track.prefix.problem.id, (*track.path, track.num_tokens)),
        )
        sequence = LiveSequence(request=request, hold=thought.hold, hard_cap=hard_cap, arrived=thought.arrived)
        sequence.in_call = True
        track.sequence = sequence
        self._in_flight.begin([sequence])
        return sequence

    async def _know_marker(self) -> None:
        """Encodes the marker that ends the thinking, where there is a cap on that."""
        markers = self._policy.thinking
        if self._sampling.max_thinking_tokens is None or markers is None or self._end_of_thinking is not None:
            return
        [ids] = await self._policy.encode_text([markers.ending])
        self._end_of_thinking = Step(token_ids=ids, text=markers.ending, forced=True, thinking=True)

    def _thinking_left(self, track: Track) -> int | None:
        """Tokens that its thinking may still have; None: no cap, or it is over."""
        most, markers = self._sampling.max_thinking_tokens, self._policy.thinking
        if most is None or markers is None:
            return None
        trajectory = track.trajectory()
        if trajectory.reply or markers.end in trajectory.thoughts:
            return None
        return most - trajectory.thinking_tokens

    def _end_thinking(self, track: Track, hard_cap: int) -> bool:
        """Appends the marker that ends it; False where there is no room for that."""
        marker = self._end_of_thinking
        assert marker is not None
        fits = track.num_tokens + len(marker.token_ids) <= hard_cap
        if fits:
            track.append(marker)
        return fits

    async def _cut(self, tracks: list[Track], how: Generation) -> None:
        """Time is up: what is unwritten ends here, with the steps that it has."""
        self._books.cut(EndReason.DEADLINE)
        for track in tracks:
            if not track.written:
                assert track.sequence is not None
                self._take(track, how)
                self._in_flight.give_up([track.sequence])
        for track in tracks:
            if track.written and track.status is Status.RUNNING:
                self.ahead.drop([track])
            if not track.status.done:
                self.end(track, Status.TRUNCATED)

    def end(self, track: Track, status: Status) -> None:
        """A candidate; or pruned, when no more candidates are allowed. A sequence's is allowed since it began."""
        track.written = True
        if track.sequence is not None:
            track.sequence.hold.use(candidates=1)
        elif self._books.account.left("candidates") == 0:
            self._books.cut(EndReason.BUDGET)
            track.status = Status.PRUNED
            if self._telling is not None:
                self._telling.prune(track.path)
            return
        else:
            self._books.account.spend(candidates=1)
        self._books.tally.add({"candidates": 1})
        track.status = status
        track.answer = self._extract("".join([step.text for step in track.steps if not step.thinking]))
        if self._telling is not None:
            self._telling.steps(track)
