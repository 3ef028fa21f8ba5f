"""What a dialect is."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.dialects.fields import CommonRequest
from orchestrator.serving.events import Writer
from orchestrator.serving.orders import Answered, Order


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingContext:
    """What a request may ask for, and what it gets where it says nothing."""

    catalog: Catalog
    config: ServeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Of one response."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # behind the prefix of its dialect
    created: int = field(default_factory=lambda: int(time.time()))


class Dialect(Protocol):
    """An API on the wire. Pure: it reads a request, and words what was found."""

    path: str

    @property
    def request(self) -> type[CommonRequest]:
        """As its fields are checked."""
        ...

    @property
    def neutral(self) -> Mapping[str, tuple[Any, ...]]:
        """Parameters that it can't honour, with the values that ask for nothing."""
        ...

    def order(self, given: dict[str, Any], request_id: str, context: ServingContext) -> Order:
        """What a request's body asks for. Raises ApiError; what can't be honoured is refused by its name."""
        ...

    def body(self, order: Order, found: Sequence[Answered], stamp: Stamp) -> dict[str, Any]:
        """The body of a plain response. `found` has an answer for each problem."""
        ...

    def writer(self, order: Order, stamp: Stamp) -> Writer:
        """Of a streamed response."""
        ...
