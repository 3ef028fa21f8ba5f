"""Strikes a scene while runs go on in it, a fault after the recovery from another. Looks at what each run left."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.bench.faults.kinds import NO_SCORE, Lasts, NothingStruck, kinds_of
from experiments.bench.faults.leaks import alive
from experiments.bench.faults.rows import Row, Truth, findings, read_rows
from experiments.bench.faults.run import DisturbedRun
from experiments.bench.faults.scene import Scene, until
from experiments.bench.faults.schedule import Strike
from experiments.bench.faults.table import Fault
from experiments.running.run import Plan
from orchestrator.core.errors import HeadraceError
from orchestrator.results import RowKey

_RECOVERY_S = 240.0  # and then it is told as one that did not come
_FIRST_ROW_S = 300.0
_REST_S = 900.0  # for a run to end once nothing strikes it any more
_IDLE_S = 30.0
_WHOLE = ("best_of_n",)  # strategies whose tokens do not depend on scores
_AGAIN_S = 1.0  # where there was nothing to strike, or the keeper did not say


class Campaign:
    """Owner of the runs."""

    def __init__(
        self,
        stage: str,
        scene: Scene,
        plan: Plan,
        truth: Truth,
        faults: list[Fault],
        *,
        pace_s: float,
        say: Callable[[str], None],
    ) -> None:
        """`faults` gets those that strike. `pace_s`: between the chunks of a scripted server meanwhile."""
        self._faults = faults
        self._stage = stage
        self._scene = scene
        self._plan = plan
        self._truth = truth
        self._pace_s = pace_s
        self._say = say
        self._kinds = kinds_of(scene)
        self._undisturbed: Mapping[RowKey, Row] | None = None
        self._num_runs = 0

    @property
    def kinds(self) -> Sequence[str]:
        """Names of those that the scene can have."""
        return tuple(self._kinds)

    async def undisturbed(self) -> float:
        """Runs without a fault first; its seconds. Raises what ends it."""
        began = time.monotonic()
        run = self._begin()
        await self._rest(run)
        if run.ends:
            raise run.ends[0][1]
        rows = read_rows(run.plan.folder)
        self._truth.compute(rows)
        if wrong := list(findings(rows, None, self._wanted, self._truth)):
            raise HeadraceError(f"bench: without a fault {len(wrong)} rows are wrong, the first: {wrong[0]}")
        if self._scene.engine is not None:  # else the policy draws others when it is asked again
            self._undisturbed = {row.key: row for row in rows}
            self._scene.engine.remember()
        if self._scene.asker is not None:
            self._scene.asker.begin()
        seconds = time.monotonic() - began
        self._say(f"{self._stage}: undisturbed, {len(rows)} rows in {seconds:.0f} s")
        return seconds

    async def strike(self, strikes: Sequence[Strike]) -> None:
        """All of them. A run meets each kind once at most: a driver may be lost three times, and no more often."""
        for first in range(0, len(strikes), len(self._kinds)):
            left = deque(strikes[first : first + len(self._kinds)])
            while left:
                await self._disturb(left)

    async def _disturb(self, left: "deque[Strike]") -> None:
        """One run, with as many of the faults as it lasts for."""
        run, before = self._begin(), len(self._faults)
        try:
            if not await until(_coroutine(lambda: bool(run.num_rows) or run.over), _FIRST_ROW_S):
                raise HeadraceError("bench: a run did not begin")
            if self._scene.engine is not None:
                self._scene.engine.pace_s = self._pace_s
            while left and not run.over:
                strike = left.popleft()
                await asyncio.sleep(strike.wait_s)
                if run.over or not await self._one(strike, run):
                    left.append(strike)
                    await asyncio.sleep(_AGAIN_S)
        finally:
            if self._scene.engine is not None:
                self._scene.engine.pace_s = 0.0
            await self._rest(run)
        await self._look(run, self._faults[before:])

    def _begin(self) -> DisturbedRun:
        self._num_runs += 1
        name = f"{self._stage}-{self._num_runs}"
        run = DisturbedRun(replace(self._plan, config=replace(self._plan.config, name=name)))
        if self._scene.engine is not None:
            self._scene.engine.begin()
        self._scene.run = run
        run.start()
        return run

    async def _rest(self, run: DisturbedRun) -> None:
        try:
            async with asyncio.timeout(_REST_S):
                await run.wait()
        finally:
            await run.stop()
            self._scene.run = None

    async def _one(self, strike: Strike, run: DisturbedRun) -> bool:
        """Whether there was something to strike."""
        kind, scene = self._kinds[strike.kind], self._scene
        again = self._again()
        began = time.monotonic()
        try:
            struck = await kind.strike(scene, strike.choice)
        except (NothingStruck, HeadraceError):
            return False
        fault = Fault(stage=self._stage, kind=strike.kind, began=time.time())
        self._faults.append(fault)
        try:
            if kind.lasts is Lasts.FOR_SECONDS:
                await asyncio.sleep(strike.lasts_s)
                await kind.end(scene, struck)
            num_rows = run.num_rows

            async def recovered() -> bool:
                return (run.num_rows > num_rows or run.over) and await scene.whole(struck.gone)

            if await until(recovered, _RECOVERY_S):
                fault.recovery_s = time.monotonic() - began
        finally:
            await kind.end(scene, struck)
        fault.leaks += [f"process {process.pid}" for process in await alive(struck.gone)]
        fault.policy_tokens = self._again() - again
        number = f"{len(self._faults)}. {self._stage}: {strike.kind}"
        self._say(f"{number}: {'not recovered' if fault.recovery_s is None else f'{fault.recovery_s:.1f} s'}")
        return True

    async def _look(self, run: DisturbedRun, faults: Sequence[Fault]) -> None:
        """At a run that is over. What is wrong is told of the last fault before it came."""
        if not faults:
            return
        rows = read_rows(run.plan.folder)
        self._truth.compute(rows)
        at = {row.key: row.finished_at for row in rows}
        swayed = {row.key for row in rows if _swayed(row, faults)}
        for finding in findings(rows, self._undisturbed, self._wanted, self._truth, swayed):
            fault = _last_before(faults, at.get(finding.key, time.time()))
            (fault.lost if finding.lost else fault.wrong).append(f"{finding.key}: {finding.what}")
            self._say(f"WRONG after {fault.kind}: {finding.key}: {finding.what}")
        for row in rows:
            fault = _last_before(faults, row.finished_at)
            fault.unjudged += sum(candidate.unjudged is not None for candidate in row.candidates)
            fault.verifier_tokens += row.reingested_tokens
            if self._scene.engine is None:
                fault.policy_tokens += row.discarded_tokens
        for when, error in run.ends:
            fault = _last_before(faults, when)
            fault.ended_run += 1
            self._say(f"the run ended and was resumed after {fault.kind}: {error}")
        await self._look_at_pool(faults[-1])
        if self._scene.asker is not None:
            await self._look_at_answers(faults)

    async def _look_at_pool(self, last: Fault) -> None:
        held: Any = ()

        async def idle() -> bool:
            nonlocal held
            held = await self._scene.idle()
            return not held

        if not await until(idle, _IDLE_S):
            last.leaks += held
            self._say(f"LEFT in the pool: {held}")

    async def _look_at_answers(self, faults: Sequence[Fault]) -> None:
        assert self._scene.asker is not None
        answers, self._scene.asker.answers = self._scene.asker.answers, []
        for when, right in answers:
            if not right and when > faults[0].began:
                _last_before(faults, when).wrong.append("an answer of the endpoint")
                self._say("WRONG: an answer of the endpoint")

    @property
    def _wanted(self) -> set[RowKey]:
        return {job.key for job in self._plan.jobs}

    def _again(self) -> int:
        return 0 if self._scene.engine is None else self._scene.engine.again


def _last_before(faults: Sequence[Fault], when: float) -> Fault:
    return max((fault for fault in faults if fault.began <= when), key=lambda fault: fault.began, default=faults[0])


def _swayed(row: Row, faults: Sequence[Fault]) -> bool:
    """Whether a search by steps was under way when the verifier's verdict was no score: it went on without that step,
    as it should, and no row tells."""
    refused = [fault.began for fault in faults if fault.kind == NO_SCORE]
    return row.key[1] not in _WHOLE and any(row.started_at <= when <= row.finished_at for when in refused)


def _coroutine(condition: Callable[[], bool]) -> Any:
    async def asked() -> bool:
        return condition()

    return asked
