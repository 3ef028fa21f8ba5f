"""Who sends requests: one caller for each API key, with what it has in flight and what it may still spend."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

from orchestrator.serving.errors import over_limit, wrong_key
from orchestrator.serving.key_classes import DEFAULT, KeyClass, KeysConfig
from orchestrator.serving.keys import Keyring
from orchestrator.serving.orders import Order

ANYONE = ""
"""The name of the one caller where no keys are asked for."""


class Caller:
    """Owner of the account of one key. It is charged what its searches have cost: one that has overspent waits until
    the minute's tokens have made up for it."""

    def __init__(self, name: str, allowed: KeyClass, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.allowed = allowed
        self._clock = clock
        self._in_flight = 0
        self._spent, self._spent_at = 0.0, clock()  # tokens that time has not made up for yet

    @property
    def num_in_flight(self) -> int:
        return self._in_flight

    def enter(self) -> None:
        """A request begins. Raises ApiError where that is one too many, or its tokens are used up."""
        most = self.allowed.max_in_flight
        if most is not None and self._in_flight >= most:
            raise over_limit(f"this API key may have {most} requests in flight", retry_after_s=1)
        if (per_minute := self.allowed.tokens_per_minute) is not None:
            over = self._unsettled(per_minute) - per_minute
            if over >= 0:
                wait_s = max(1, math.ceil(over * 60 / per_minute))
                raise over_limit(f"this API key may use {per_minute} tokens per minute", retry_after_s=wait_s)
        self._in_flight += 1

    def leave(self) -> None:
        """A request that began has ended."""
        self._in_flight -= 1

    def spend(self, tokens: int) -> None:
        if (per_minute := self.allowed.tokens_per_minute) is not None:
            self._spent, self._spent_at = self._unsettled(per_minute) + tokens, self._clock()

    def allow(self, order: Order) -> Order:
        """The order within this caller's budget. Raises ApiError for what it may not ask for."""
        self.allowed.check(order)
        return replace(order, budget=order.budget.within(self.allowed.budget))

    def _unsettled(self, per_minute: int) -> float:
        return max(0.0, self._spent - (self._clock() - self._spent_at) * per_minute / 60)


class Callers:
    """Owner of the callers: whose key it is decides."""

    def __init__(self, config: KeysConfig, keyring: Keyring) -> None:
        self._classes = {DEFAULT: KeyClass(), **config.classes}
        self._keyring = keyring
        self._asked_for = keyring.configured if config.required is None else config.required
        self._callers = {ANYONE: Caller(ANYONE, KeyClass())}

    def identify(self, authorization: str | None) -> Caller:
        """The caller by the header of a request. Raises ApiError, which never holds the key."""
        if not self._asked_for:
            return self._callers[ANYONE]
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise wrong_key("no API key: send it as 'Authorization: Bearer KEY'")
        record = self._keyring.find(key.strip())
        if record is None:
            raise wrong_key("the API key is not one of this server's")
        allowed = self._classes[record.key_class]
        caller = self._callers.setdefault(record.name, Caller(record.name, allowed))
        caller.allowed = allowed  # the key's line may have changed
        return caller
