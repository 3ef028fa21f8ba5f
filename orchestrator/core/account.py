"""What may still be spent: caps, what was spent, and what is promised to work in flight.

Whoever starts work takes a hold first, so that no cap can be exceeded however the work ends.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.flops import ModelShape
from orchestrator.core.ledger import Budget, Remaining

COUNTED = ("policy_tokens", "verifier_tokens", "flops", "candidates")
"""What a budget caps, seconds aside: names of its fields."""
Amounts = Mapping[str, float]  # by these names


class Account:
    """Owner of the counts of one search, or of a run: each search's account then has the run's as its parent. It counts
    what has a cap."""

    def __init__(
        self, budget: Budget, parent: "Account | None" = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        caps = {kind: getattr(budget, kind) for kind in COUNTED}
        self._caps: dict[str, float] = {kind: cap for kind, cap in caps.items() if cap is not None}
        self._parent = parent
        self.counted: frozenset[str] = frozenset(self._caps) | (frozenset() if parent is None else parent.counted)
        self._clock = clock
        self._spent: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._ends = None if budget.seconds is None else clock() + budget.seconds

    @property
    def capped(self) -> bool:
        """Whether there is a cap on anything but time."""
        return bool(self.counted)

    @property
    def remaining(self) -> Remaining:
        """What is left in all, also what is yet to be secured."""
        left: dict[str, float | None] = {kind: self.prospect(kind) for kind in COUNTED}
        return Remaining(**left, seconds=self.seconds_left)  # type: ignore[arg-type]

    @property
    def secured(self) -> Remaining:
        """What is left that may be held at once."""
        left: dict[str, float | None] = {kind: self.left(kind) for kind in COUNTED}
        return Remaining(**left, seconds=self.seconds_left)  # type: ignore[arg-type]

    @property
    def seconds_left(self) -> float | None:
        """Negative when late."""
        own = None if self._ends is None else self._ends - self._clock()
        return _least(own, None if self._parent is None else self._parent.seconds_left)

    def end_within(self, seconds: float) -> None:
        """Leaves so many seconds at most, from now on."""
        self._ends = _least(self._ends, self._clock() + seconds)

    async def secure(self, amounts: Amounts) -> None:
        """To be called before holds are taken: has that much at hand, or all that there is. Holds that are taken at
        once, before anything is waited for, find it."""
        if self._parent is not None:
            await self._parent.secure(amounts)

    def left(self, kind: str) -> float | None:
        """What may be held at once; None: no cap."""
        return _least(self._own(kind), None if self._parent is None else self._parent.left(kind))

    def prospect(self, kind: str) -> float | None:
        """As `left`, with what is yet to be secured."""
        return _least(self._own(kind), None if self._parent is None else self._parent.prospect(kind))

    def fits(self, amounts: Amounts) -> bool:
        """Whether that much is left of everything."""
        left = {kind: self.left(kind) for kind in amounts}
        return all(cap is None or amounts[kind] <= cap for kind, cap in left.items())

    def hold(self, amounts: Amounts) -> "Hold":
        return Hold(self, amounts)

    def spend(self, **amounts: float) -> None:
        """Spends what no hold was taken for."""
        for kind in self.counted & amounts.keys():
            self._move(kind, 0, amounts[kind])

    def _own(self, kind: str) -> float | None:
        cap = self._caps.get(kind)
        return None if cap is None else cap - self._spent[kind] - self._held[kind]

    def _move(self, kind: str, held: float, spent: float) -> None:
        self._held[kind] += held  # type: ignore[assignment]
        self._spent[kind] += spent  # type: ignore[assignment]
        if self._parent is not None:
            self._parent._move(kind, held, spent)


class Hold:
    """A promise: amounts that some work may use. What it does not use goes back when it is closed."""

    def __init__(self, account: Account, amounts: Amounts) -> None:
        self._account = account
        self._left: dict[str, float] = {}
        self.grow(amounts)

    def use(self, **amounts: float) -> None:
        """Spends; beyond what was held only where a verifier's cost is known afterwards."""
        for kind in self._account.counted:
            if amount := amounts.get(kind, 0):
                covered = min(amount, self._left.get(kind, 0))
                self._left[kind] = self._left.get(kind, 0) - covered
                self._account._move(kind, -covered, amount)

    def grow(self, amounts: Amounts) -> None:
        """Promises more."""
        for kind in self._account.counted:
            if amount := amounts.get(kind, 0):
                self._left[kind] = self._left.get(kind, 0) + amount
                self._account._move(kind, amount, 0)

    def shrink(self, amounts: Amounts) -> None:
        """Gives some of it back."""
        self.grow({kind: -amount for kind, amount in amounts.items()})

    def forfeit(self) -> None:
        """Spends all that is left of it."""
        self.use(**self._left)

    def close(self) -> None:
        for kind, amount in self._left.items():
            self._account._move(kind, -amount, 0)
        self._left = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSequence:
    """What a sequence will cost, as if nothing were cached: who writes it, after how many tokens, and who reads it."""

    shape: ModelShape  # the policy's
    prefix: int  # tokens
    scored: bool  # a verifier reads it
    unread: int = 0  # tokens of the prefix that the verifier has not read
    verifier_flops_per_token: float = 0.0
    most_thinking: int | None = None  # tokens of thinking after which it may be stopped, and goes on after the marker
    marker: int = 0  # tokens that end its thinking then

    def amounts(self, tokens: int) -> Amounts:
        """The most that so many tokens can cost. What goes on after the thinking reads all before it once more."""
        marker = 0 if self.most_thinking is None else self.marker
        flops = self.shape.flops(new_tokens=self.prefix + marker + tokens, context_tokens=0, logits=tokens)
        if self.most_thinking is not None:
            thought = self.prefix + min(tokens, self.most_thinking)
            flops += self.shape.flops(new_tokens=thought, context_tokens=0, logits=0)
        if not self.scored:
            return {"policy_tokens": tokens, "candidates": 1, "flops": flops}
        read = self.unread + marker + tokens
        flops += self.verifier_flops_per_token * read
        return {"policy_tokens": tokens, "candidates": 1, "flops": flops, "verifier_tokens": read}

    def affordable(self, left: Remaining, *, parts: int, index: int) -> int | None:
        """The most tokens that part `index` of `parts` equal ones of what is left pays for; None: no cap."""
        caps = [_share(left.policy_tokens, parts, index)]
        if self.scored and left.verifier_tokens is not None:
            marker = 0 if self.most_thinking is None else self.marker
            caps.append((_share(left.verifier_tokens, parts, index) or 0) - self.unread - marker)
        if left.flops is not None:
            caps.append(self._for_flops(left.flops / parts))
        return min((cap for cap in caps if cap is not None), default=None)

    def _for_flops(self, flops: float) -> int:
        low, high = 0, 1
        while self.amounts(high)["flops"] <= flops:
            low, high = high, 2 * high
            if high > 1 << 40:
                return low  # costs nothing
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.amounts(middle)["flops"] <= flops else (low, middle)
        return low


def total(parts: Iterable[Amounts]) -> Amounts:
    """The sums, by kind."""
    sums: Counter[str] = Counter()
    for amounts in parts:
        sums.update(amounts)
    return sums


def _share(amount: float | None, parts: int, index: int) -> int | None:
    """Part `index` of an amount split evenly into whole numbers; the first parts are one richer if it must be."""
    if amount is None:
        return None
    whole, rest = divmod(max(0, int(amount)), parts)
    return whole + (index < rest)


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)
