"""What a driver asks the command that started it. The command polls for it: nothing calls into a command."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.account import Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Wants that much of the run's budget. The answer is a `Given`."""

    wanted: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A part of the run's budget, that much or what there was of it."""

    amounts: Amounts
    elsewhere: Amounts  # what is left of the budget beside it, not promised to anybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Says what was spent of the driver's part of the run's budget, and gives back what is not needed. No answer."""

    spent: Amounts
    returned: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Wants samples of the workload that a job shares. The answer is how many."""

    job: int  # the command's number for it
    number: int  # of the search's turns, from 0
    gain: float
    samples: int


Ask = Take | Settle | Turn


class Mailbox:
    """Owner of the questions that the command has not yet fetched, and of those that wait for an answer."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._unsent: list[tuple[int, Ask]] = []
        self._some = asyncio.Event()  # is unsent
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    def post(self, ask: Ask) -> int:
        """Sends what has no answer. Its number."""
        number = next(self._numbers)
        self._unsent.append((number, ask))
        self._some.set()
        return number

    async def ask(self, ask: Ask) -> Any:
        """The answer. Cancelled, it is answered all the same, and nobody hears it."""
        number = self.post(ask)
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        try:
            return await answer
        finally:
            del self._waiting[number]

    async def fetch(self, wait_s: float) -> Sequence[tuple[int, Ask]]:
        """All that is unsent, in order, once there is some; nothing after so long."""
        try:
            async with asyncio.timeout(wait_s):
                await self._some.wait()
        except TimeoutError:
            return []
        unsent, self._unsent = self._unsent, []
        self._some.clear()
        return unsent

    def answer(self, number: int, answer: Any) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
