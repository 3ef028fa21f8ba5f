"""A workload that searches of many drivers share: the command holds it, and a driver asks for each turn."""

import asyncio

from orchestrator.core.protocols import Workload
from orchestrator.drivers.mailbox import Mailbox, Turn


class Grants:
    """What a workload gave one search. A search that is begun again, because its driver died, takes the same turns and
    is given the same: its draws are the same, and nothing is granted twice."""

    def __init__(self, workload: Workload, problem_id: str) -> None:
        self._workload = workload
        self._problem_id = problem_id
        self._turns: list[asyncio.Future[int]] = []

    async def turn(self, number: int, *, gain: float, samples: int) -> int:
        assert number <= len(self._turns), "a search takes its turns one after the other"
        if number == len(self._turns):
            grant = self._workload.grant(self._problem_id, gain=gain, samples=samples)
            self._turns.append(asyncio.ensure_future(grant))
        return await asyncio.shield(self._turns[number])

    def close(self) -> None:
        """The search is done: the workload need not wait for it."""
        for turn in self._turns:
            turn.cancel()
        self._workload.leave(self._problem_id)


class SharedWorkload:
    """Implements `Workload` for one search in a driver."""

    def __init__(self, mailbox: Mailbox, job: int) -> None:
        self._mailbox = mailbox
        self._job = job
        self._num_turns = 0

    async def grant(self, problem_id: str, *, gain: float, samples: int) -> int:
        turn = Turn(job=self._job, number=self._num_turns, gain=gain, samples=samples)
        self._num_turns += 1
        granted: int = await self._mailbox.ask(turn)
        return granted

    def leave(self, problem_id: str) -> None:
        """The command leaves, once it has the row: until then the search may have to be begun again."""
