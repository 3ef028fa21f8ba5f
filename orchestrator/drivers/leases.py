"""One budget of a run over many drivers, never exceeded: each spends what it was lent, and no more.

A driver takes what a call of a search may cost at most before the call begins, as with one driver it would be held.
What was not needed goes back when the call ends. So all drivers together may always use the whole budget.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import replace

from orchestrator.core.account import COUNTED, Account, Amounts, Hold
from orchestrator.core.ledger import Budget, Remaining
from orchestrator.drivers.mailbox import Given, Settle

_ROUNDING = 1e-9  # FLOPs are sums of large floats


class Leases:
    """The command's side. Owner of what is lent to each driver of the run's account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._holds: dict[Hashable, Hold] = {}

    def take(self, driver: Hashable, wanted: Amounts) -> Given:
        left = {kind: self._account.left(kind) for kind in wanted}
        given = {kind: min(wanted[kind], max(0, cap)) for kind, cap in left.items() if cap is not None}
        self._hold(driver).grow(given)
        return Given(amounts=given, elsewhere=elsewhere(self._account.secured))

    def settle(self, driver: Hashable, settled: Settle) -> None:
        hold = self._hold(driver)
        hold.use(**settled.spent)
        hold.shrink(settled.returned)

    def lost(self, driver: Hashable) -> None:
        """A driver died: nobody knows what it spent of what it had, so all of that counts as spent."""
        if hold := self._holds.pop(driver, None):
            hold.forfeit()

    def _hold(self, driver: Hashable) -> Hold:
        return self._holds.setdefault(driver, self._account.hold({}))


class LeasedAccount(Account):
    """A driver's side: the account of its run. Owner of what was lent to it."""

    def __init__(
        self,
        budget: Budget,
        take: Callable[[Amounts], Awaitable[Given]],
        settle: Callable[[Settle], object],
    ) -> None:
        """`budget`: the run's, for which of the caps there are; its seconds come with `update`."""
        super().__init__(replace(budget, seconds=None))
        self._kinds = [kind for kind in COUNTED if getattr(budget, kind) is not None]
        self._take = take
        self._settle = settle
        self._leased: Counter[str] = Counter()
        self._elsewhere: dict[str, float] = {}  # with the command, as far as is known
        self._num_securing = 0
        self._taking: set[asyncio.Task[Given]] = set()
        self._tidying = False

    def update(self, remaining: Remaining) -> None:
        """What is left with the command now."""
        self._elsewhere = dict(elsewhere(remaining))
        if remaining.seconds is not None:
            self.end_within(remaining.seconds)

    async def secure(self, amounts: Amounts) -> None:
        self._num_securing += 1
        try:
            while short := self._short(amounts):
                task = asyncio.ensure_future(self._more(short))  # what is given counts, whoever is cancelled
                self._taking.add(task)
                task.add_done_callback(self._taking.discard)
                given = await asyncio.shield(task)
                if not any(given.amounts.values()):
                    return
        finally:
            self._num_securing -= 1
            self._tidy_soon()

    def prospect(self, kind: str) -> float | None:
        own = self._own(kind)
        return None if own is None else own + self._elsewhere.get(kind, 0)

    def _short(self, amounts: Amounts) -> Amounts:
        """What is to be taken so that there is so much."""
        lacking = {}
        for kind in self._kinds:
            own, wanted = self._own(kind) or 0, amounts.get(kind, 0)
            if own < wanted:
                lacking[kind] = wanted - own + (_ROUNDING * wanted if kind == "flops" else 0)
        return lacking

    async def _more(self, wanted: Amounts) -> Given:
        given = await self._take(wanted)
        self._leased.update(given.amounts)
        self._elsewhere = dict(given.elsewhere)
        self._tidy_soon()
        return given

    def _own(self, kind: str) -> float | None:
        return self._leased[kind] - self._spent[kind] - self._held[kind] if kind in self._kinds else None

    def _move(self, kind: str, held: float, spent: float) -> None:
        super()._move(kind, held, spent)
        if (self._own(kind) or 0) > 0 or self._idle:
            self._tidy_soon()

    @property
    def _idle(self) -> bool:
        """Whether no search holds anything."""
        return all(self._held[kind] <= _ROUNDING for kind in self._kinds)

    def _tidy_soon(self) -> None:
        if self._kinds and not self._tidying:
            self._tidying = True
            asyncio.get_running_loop().call_soon(self._tidy)

    def _tidy(self) -> None:
        """Gives back what no search holds, unless one is about to. Says what was spent, at the latest when none holds
        anything."""
        self._tidying = False
        returned = {kind: own for kind in self._kinds if (own := self._own(kind) or 0) > 0}
        spent = {kind: amount for kind in self._kinds if (amount := self._spent[kind])}
        if self._num_securing or not (returned or (spent and self._idle)):
            return
        for kind in self._kinds:
            # never below nothing: what was spent beyond the lease is the run's by now
            left = self._held[kind] if kind in returned else max(0, self._leased[kind] - self._spent[kind])
            self._leased[kind], self._spent[kind] = left, 0
            self._elsewhere[kind] = self._elsewhere.get(kind, 0) + returned.get(kind, 0)
        self._settle(Settle(spent=spent, returned=returned))


def elsewhere(remaining: Remaining) -> Mapping[str, float]:
    """The amounts that are capped."""
    left = {kind: getattr(remaining, kind) for kind in COUNTED}
    return {kind: max(0, amount) for kind, amount in left.items() if amount is not None}
