"""What the keys of a class may cost, and where the keys are."""

from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.ledger import Budget
from orchestrator.serving.errors import not_permitted
from orchestrator.serving.orders import Order

DEFAULT = "default"
"""The class of a key that names none."""


@dataclass(frozen=True, kw_only=True)
class KeyClass:
    """What one key may do. None: as much as the server lets anybody."""

    max_in_flight: int | None = None  # requests, those that wait among them
    tokens_per_minute: int | None = None  # that the policy computes
    max_n: int | None = None  # as `limits.max_n`
    strategies: list[str] | None = None  # by their names
    efforts: list[str] | None = None  # by their names
    budget: Budget = field(default_factory=Budget)  # of each search, within that of every request

    def __post_init__(self) -> None:
        for name in ("max_in_flight", "tokens_per_minute", "max_n"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"keys.classes: {name} must be >= 1 (or null for no limit), got {value}")

    def check(self, order: Order) -> None:
        """Raises ApiError for what its keys may not ask for."""
        named = order.named
        if self.strategies is not None and named.name not in self.strategies:
            raise not_permitted(f"strategy {named.name!r}: {_wanted(self.strategies)}", param="model")
        if self.efforts is not None and order.effort is not None and order.effort not in self.efforts:
            raise not_permitted(f"reasoning_effort {order.effort!r}: {_wanted(self.efforts)}", param="reasoning_effort")
        if self.max_n is None:
            return
        for name in named.strategy.costly:
            count: Any = getattr(named.strategy, name)
            if count is not None and count > self.max_n:
                param = f"headrace.{name}"
                raise not_permitted(f"{param}: must be <= {self.max_n} for this API key, got {count}", param=param)


@dataclass(frozen=True, kw_only=True)
class KeysConfig:
    """Which API keys there are. The environment variable `HEADRACE_API_KEYS` may hold some, too."""

    file: str | None = None  # a line for each key, as `headrace key new` prints it; read again when it changes
    required: bool | None = None  # None: where there are keys, and wherever other machines can reach the endpoint
    classes: dict[str, KeyClass] = field(default_factory=dict)  # by the name at the end of a key's line


def _wanted(names: list[str]) -> str:
    return f"this API key may use {', '.join(names) or 'none'}"
