"""One problem's search over a policy and a verifier: generation, overlapped scoring, budget and ledger.

The session owns what its search left in the pools: leaving its context frees every verifier state and aborts every
sequence. Steps are scored while the policy writes on. It needs neither ray nor torch, so strategies are tested on it.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from types import TracebackType

from orchestrator.core.account import Account, Amounts, total
from orchestrator.core.alternatives import ReadToken
from orchestrator.core.confidence import ConfidenceFloor
from orchestrator.core.errors import PromptTooLong
from orchestrator.core.ledger import Budget, Ledger, Remaining
from orchestrator.core.nouns import EndReason, Problem, SearchResult, Selection, Status, Step, Trajectory
from orchestrator.core.protocols import Answers, Generation, Policy, Sampling, Verifier, Workload
from orchestrator.core.search_events import Observer
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.session.books import Books
from orchestrator.session.calls import know_calls, numbered_with_calls
from orchestrator.session.generation import Writing
from orchestrator.session.scoring import Scoring
from orchestrator.session.telling import Telling
from orchestrator.session.tracks import Track, track_of


class SearchSession:
    """Implements `Session`: the verbs over its books, its writing and its scoring."""

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
        observer: Observer | None = None,
        streams: bool = False,
    ) -> None:
        """`speculation`: steps that a child of `expand` may be written on while it is scored, on spare capacity.

        Nothing is spent on it under a cap on tokens, FLOPs or candidates, nor once less than half of it is kept.
        `streams`: the search writes one trajectory, of which the observer is told each token's text as it is written.
        """
        self.sampling = sampling
        self.selection = selection
        self.workload: Workload | None = None  # set by the runner, where searches share a budget
        self._policy = policy
        self._answers = answers
        self._books = Books(budget, run_account)
        stop = sampling.stop if streams else None
        self._telling = None if observer is None else Telling(observer, self._books, stop)
        self._streams = streams and observer is not None
        self._scoring = Scoring(verifier, self._books, self._telling)
        self._writing = Writing(
            policy=policy,
            sampling=sampling,
            run_seed=run_seed,
            extract=answers.extract,
            books=self._books,
            scoring=self._scoring,
            speculation=speculation,
            telling=self._telling,
        )
        self._root: Trajectory | None = None

    async def __aenter__(self) -> "SearchSession":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writing.give_up()
            if error is None:
                await self._writing.drain()
        finally:
            try:
                await self._scoring.close()
            finally:
                await self._writing.close()

    @property
    def thinking(self) -> ThinkingMarkers | None:
        return self._policy.thinking

    @property
    def ledger(self) -> Ledger:
        return self._books.tally.ledger()

    @property
    def remaining(self) -> Remaining:
        return self._books.account.remaining

    @property
    def cut_short(self) -> bool:
        """Whether a cap of the budget ended something."""
        return self._books.end_reason is not EndReason.COMPLETED

    def may_go_on(self) -> bool:
        if not (remaining := self.remaining).exhausted:
            return True
        late = remaining.seconds is not None and remaining.seconds <= 0
        self._books.cut(EndReason.DEADLINE if late else EndReason.BUDGET)
        return False

    def end_within(self, seconds: float) -> None:
        """Leaves the search so many seconds at most, from now on: then the best answer so far counts."""
        self._books.account.end_within(seconds)
        self._writing.reschedule()

    def with_end_reason(self, result: SearchResult) -> SearchResult:
        """The result of the search, which says so where a cap of the budget cut it short."""
        return replace(result, end_reason=self._books.end_reason)

    def tell(self, result: SearchResult) -> None:
        """Tells the observer, if there is one, what the search came to."""
        if self._telling is not None:
            self._telling.result(result)

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
        logprobs: int | None = None,
        floor: ConfidenceFloor | None = None,
    ) -> list[Trajectory]:
        self._writing.ahead.drop(prefixes)
        how = self.sampling.generation(
            temperature=temperature,
            stop=stop,
            max_tokens=self.sampling.max_tokens if max_tokens is None else max_tokens,
            logprobs=logprobs,
            floor=floor,
            streams=self._streams,
            eager=scored,
        )
        return await self._writing.write(prefixes, n, how, scored)

    async def expand(
        self, prefixes: Sequence[Trajectory], n: int = 1, *, scored: bool = True, temperature: float | None = None
    ) -> list[Trajectory]:
        if temperature is not None:
            self._writing.ahead.drop(prefixes)
        how = self.sampling.generation(
            temperature=temperature,
            max_tokens=self.sampling.max_tokens,
            until_step=True,
            speculate=self._writing.ahead.depth if temperature is None else 0,
        )
        return await self._writing.write(prefixes, n, how, scored)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        tracks = [track_of(trajectory) for trajectory in trajectories]
        affordable, holds = [], []
        costs = [self._reading_cost(track) for track in tracks]
        await self._books.account.secure(total([self._scoring.prompt_cost(tracks), *costs]))
        self._scoring.hold_prompt(tracks)
        for track, amounts in zip(tracks, costs, strict=True):
            if self._books.account.fits(amounts):
                track.hold = self._books.account.hold(amounts)
                holds.append(track.hold)
                affordable.append(track)
            else:
                self._books.cut(EndReason.BUDGET)
        try:
            await self._scoring.read(affordable)
        finally:
            for hold in holds:
                hold.close()
        return [track.trajectory() for track in tracks]

    def _reading_cost(self, track: Track) -> Amounts:
        tokens = self._scoring.unread(track)
        return {"verifier_tokens": tokens, "flops": tokens * self._scoring.flops_per_token}

    async def read(
        self, trajectories: Sequence[Trajectory], *, likeliest: int, prompt: bool
    ) -> list[tuple[ReadToken, ...] | None]:
        """What the policy thinks of the tokens of each completion (and of the prompt's), and which ones are likeliest
        there. None where the context has no room for that, or nothing is left of the budget."""
        readings = [
            Generation(
                prefix_ids=trajectory.token_ids,
                reads=likeliest,
                reads_from=0 if prompt else len(trajectory.prompt_ids),
                max_tokens=1,  # engines sample one at least
                seed=0,
                temperature=0.0,
                top_p=1.0,
            )
            for trajectory in trajectories
        ]
        fits = [len(reading.prefix_ids) < self._policy.context_length for reading in readings]
        if not self.may_go_on():
            return [None] * len(readings)
        told = iter(await self._writing.read_back(list(compress(readings, fits))))
        return [next(told) if fit else None for fit in fits]

    async def group_answers(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        texts = [None if trajectory.calling else trajectory.answer for trajectory in trajectories]
        groups = numbered_with_calls(trajectories, await self._answers.group(texts))
        if self._telling is not None:
            self._telling.grouped(trajectories, groups)
        return groups

    async def inject(self, trajectories: Sequence[Trajectory], text: str) -> list[Trajectory]:
        [ids] = await self._policy.encode_text([text])
        await self._books.account.secure({"candidates": len(trajectories)})
        self._writing.ahead.drop(trajectories)
        tracks = [track_of(trajectory) for trajectory in trajectories]
        for trajectory, track in zip(trajectories, tracks, strict=True):
            if len(ids) > self._writing.hard_cap(trajectory) - trajectory.num_tokens:
                self._writing.end(track, Status.TRUNCATED)
            else:
                thinking = _thinks(trajectory, self._policy.thinking)
                track.append(Step(token_ids=ids, text=text, forced=True, thinking=thinking))
                if self._telling is not None:
                    self._telling.steps(track)
        await know_calls(tracks, self._policy)
        return [track.trajectory() for track in tracks]

    def retract(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        kept = []
        for trajectory in trajectories:
            *steps, last = trajectory.steps
            sampled = 0 if last.forced else len(last.token_ids)
            lost = {"discarded_tokens": sampled, "candidates": -int(trajectory.status.done)}
            self._books.tally.add(lost)
            self._books.account.spend(candidates=lost["candidates"])
            kept.append(
                replace(
                    trajectory,
                    steps=tuple(steps),
                    status=Status.RUNNING,
                    answer=None,
                    calling=None,
                    handle=None,
                    cost=trajectory.cost + Ledger(**lost),
                    unjudged=None,
                    retracted_tokens=trajectory.retracted_tokens + sampled,
                )
            )
        self._free(trajectories)
        return kept

    def release(self, trajectories: Sequence[Trajectory]) -> None:
        if self._telling is not None:
            for trajectory in trajectories:
                if not trajectory.status.done and not self._writing.goes_on(trajectory):
                    self._telling.prune(trajectory.path)
        self._free(trajectories)

    def _free(self, trajectories: Sequence[Trajectory]) -> None:
        self._writing.ahead.drop(trajectories)
        self._scoring.free([trajectory.handle for trajectory in trajectories])


def _thinks(trajectory: Trajectory, markers: ThinkingMarkers | None) -> bool:
    """Whether what comes next belongs to the thinking."""
    last = trajectory.steps[-1] if trajectory.steps else None
    return markers is not None and last is not None and last.thinking and markers.end not in last.text
