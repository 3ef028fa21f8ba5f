"""One replica of a verifier: a thin Ray actor over a `VerifierHost`, which a single thread calls.

That thread's queue is the order of things. Readings that wait while the model reads are read together when it is done.
A call that is cancelled takes nothing out of that order: its reading is skipped or read for nobody.
"""

import asyncio
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from orchestrator.child_processes import end_children_with_this_process
from orchestrator.core.errors import HeadraceError, UserError
from orchestrator.core.values import Parcel
from orchestrator.replicas.members import Health, Load
from orchestrator.verifier.held import HeldStates
from orchestrator.verifier.loading import host_class, load_host
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.contract import Answer, Missing, Read, Run, StateBlob, VerifierHost, VerifierInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

_TURN_S = 5.0  # for a reading to come whose turn it is: its driver may have died


class VerifierRaised(HeadraceError):
    """The verifier's own code raised an exception, or broke its contract. The replica goes on."""


class TurnLapsed(HeadraceError):
    """The reading came too late for its turn: others are read by now."""


@dataclass(slots=True)
class _Request:
    """A call of `read`. Its answers are cancelled when the call is, unless the thread has begun it."""

    runs: Sequence[Run]
    answers: Future[list[Answer]] = field(default_factory=Future)

    @property
    def num_tokens(self) -> int:
        return sum(len(run.token_ids) for run in self.runs)


@dataclass(slots=True, eq=False)
class _Turn:
    """While it lasts nothing else is read."""

    granted: Future[None] = field(default_factory=Future)
    request: SimpleQueue[_Request] = field(default_factory=SimpleQueue)  # one, when it comes


class VerifierActor:
    """Owns the host of one replica and its thread. `begin` and `load` come first."""

    def __init__(self, verifier: ResolvedVerifier) -> None:
        self._verifier = verifier
        self._info: VerifierInfo | None = None  # once it has loaded
        self._held = HeldStates(most=4 * (verifier.config.slots + verifier.config.host_slots))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="verifier")
        self._requests: deque[_Request] = deque()
        self._turns: dict[int, _Turn] = {}  # that were asked for, and whose reading has not come
        self._numbers = count()  # of turns
        self._batch_tokens = 0
        self._tokens_read = 0
        self._num_done = 0  # calls of the host that have ended, and turns that lapsed
        self._callers = 0  # that wait

    async def begin(self) -> tuple[int, str]:
        """Its process id and its machine. From now on no child of this process outlives it."""
        end_children_with_this_process()
        return os.getpid(), socket.gethostname()

    async def load(self) -> VerifierInfo:
        """Loads the model. Returns what it says about itself. Raises UserError when it can't be loaded."""
        verifier, config = self._verifier, self._verifier.config
        self._batch_tokens = 0 if verifier.entry.one_run_per_call else config.batch_tokens

        def load() -> VerifierHost:
            host_class(verifier)
            if (torch := sys.modules.get("torch")) is not None:  # a rule needs none: it starts seconds sooner
                torch.set_num_threads(config.num_cpus)
            try:
                return load_host(verifier)
            except ValueError as error:
                raise UserError(str(error)) from error

        self._host = await self._in_thread(load)
        self._info = self._host.info
        return self._info

    async def described(self) -> tuple[int, str, VerifierInfo] | None:
        return None if self._info is None else (os.getpid(), socket.gethostname(), self._info)

    async def turn(self) -> int:
        """To read something alone: returns when nothing is read, and nothing will be before the `read` of this turn. So
        whoever has it knows that no other reading ends the replica. It lapses after some seconds."""
        number, turn = next(self._numbers), _Turn()
        self._turns[number] = turn
        self._thread.submit(self._hold, number, turn)
        with self._waiting():
            await asyncio.wrap_future(turn.granted)
        return number

    async def read(self, runs: Sequence[Run], turn: int | None = None) -> Parcel[Answer]:
        """Raises VerifierRaised, TurnLapsed."""
        request = _Request(runs)
        if turn is None:
            self._requests.append(request)
            self._thread.submit(self._read_next)  # once for each request: none is left behind
        elif (held := self._turns.pop(turn, None)) is not None:
            held.request.put(request)
        else:
            raise TurnLapsed(f"verifier: its turn lapsed after {_TURN_S:g} s")
        self._held.read(runs)  # before it is: its client may die meanwhile
        with self._waiting():
            try:
                answers: list[Answer] = await asyncio.wrap_future(request.answers)
            except VerifierRaised:
                self._held.failed(runs)
                raise
            refused = [run.key for run, answer in zip(runs, answers, strict=True) if not isinstance(answer, Read)]
            self._held.released(refused)
            return Parcel(answers)

    async def stats(self) -> dict[str, int]:
        return {"tokens_read": self._tokens_read, "waiting": len(self._requests), "states": len(self._held)}

    async def clients(self) -> list[str]:
        """Those that have states here."""
        return list(self._held.clients)

    async def forget(self, client: str) -> None:
        """Frees the states of a client that is gone."""
        await self.release(self._held.of_client(client))

    async def health(self) -> Health:
        if self._batch_tokens:
            waiting = sum(request.num_tokens for request in self._requests) / self._batch_tokens
        else:
            waiting = len(self._requests)
        load = Load(running=float(self._callers > 0), waiting=waiting, held=len(self._held))
        return Health(busy=self._callers > 0, progress=self._num_done, load=load)

    async def stop(self) -> None:
        """Nothing to do: the host has nothing that outlives its process."""

    async def release(self, keys: Sequence[str]) -> None:
        self._held.released(keys)
        await self._ask_host(lambda: self._host.release(keys))

    async def export(self, keys: Sequence[str]) -> tuple[int, list[StateBlob | None]]:
        """Two Ray objects: how many states were found, and the states, which only their receiver need fetch."""
        blobs = await self._ask_host(lambda: self._host.export(keys))
        return sum(blob is not None for blob in blobs), blobs

    async def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        self._held.imported(keys)
        await self._ask_host(lambda: self._host.import_(keys, blobs))

    def _hold(self, number: int, turn: _Turn) -> None:
        """Waits for the reading whose turn it is, and reads it."""
        if not turn.granted.set_running_or_notify_cancel():
            del self._turns[number]
            return
        turn.granted.set_result(None)
        try:
            request = turn.request.get(timeout=_TURN_S)
        except Empty:
            if self._turns.pop(number, None) is not None:
                self._num_done += 1  # others are read now
                return
            request = turn.request.get()  # it came at the last moment
        if request.answers.set_running_or_notify_cancel():
            self._read([request])

    def _read_next(self) -> None:
        """Reads the request that has waited longest, with those behind it that fit in a micro-batch. There may be none:
        it was read with an earlier one."""
        if batch := self._next_batch():
            self._read(batch)

    def _read(self, batch: Sequence[_Request]) -> None:
        """Reads requests together. Where that raises, each for itself: what one driver asks is no fault of another's
        readings."""
        runs = [run for request in batch for run in request.runs]
        try:
            answers = self._of_host(lambda: _checked(self._host.read(runs), len(runs)))
        except VerifierRaised as error:
            if len(batch) == 1:
                batch[0].answers.set_exception(error)
            else:
                for request in batch:
                    self._read([request])
            return
        self._tokens_read += sum(answer.tokens_read for answer in answers if not isinstance(answer, Missing))
        for request in batch:
            answered, answers = answers[: len(request.runs)], answers[len(request.runs) :]
            request.answers.set_result(answered)

    def _next_batch(self) -> list[_Request]:
        batch: list[_Request] = []
        num_tokens = 0
        while self._requests and (not batch or num_tokens < self._batch_tokens):
            request = self._requests.popleft()
            if request.answers.set_running_or_notify_cancel():
                batch.append(request)
                num_tokens += request.num_tokens
        return batch

    async def _ask_host(self, call: Callable[[], T]) -> T:
        return await self._in_thread(lambda: self._of_host(call))

    def _of_host(self, call: Callable[[], T]) -> T:
        """What the host returns. Raises VerifierRaised: its code is not ours, and may raise anything."""
        try:
            return call()
        except (Exception, SystemExit) as error:
            log.exception("verifier: the host raised an exception")
            raise VerifierRaised(f"{type(error).__name__}: {error}") from error
        finally:
            self._num_done += 1

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Runs in its turn, also when the caller is cancelled meanwhile."""
        with self._waiting():
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, call))

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._callers += 1
        try:
            yield
        finally:
            self._callers -= 1


def _checked(answers: Any, num_runs: int) -> list[Answer]:
    """One answer for each run: with fewer, a reading would get another one's. Raises TypeError, ValueError."""
    given: list[Answer] = list(answers)
    if len(given) != num_runs:
        raise ValueError(f"the host gave {len(given)} answers, wanted one for each of {num_runs} runs")
    for answer in given:
        if not isinstance(answer, Answer):
            raise TypeError(f"the host gave a {type(answer).__name__}, wanted Read, Missing or Unreadable")
    return given
