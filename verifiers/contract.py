"""What passes between a verifier pool and the class that its replicas host. No torch, no Ray.

A host reads runs of tokens, each starting from a state that it holds under a key (or from the start), and keeps the
state after the last token under a new key. A key names one sequence of tokens, so a state is never overwritten by
another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from orchestrator.core.nouns import Score
from orchestrator.core.protocols import Solution
from orchestrator.core.values import numerous

LAYOUT_VERSION = 1  # of a state that travels; bumped when the meaning of its numbers changes


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tokens to read. Without `boundaries`, a run whose `key` is held already is not read again."""

    key: str  # under which the state after the last token is kept
    token_ids: tuple[int, ...]  # those after `parent` only
    boundaries: tuple[int, ...] = ()  # counts of these tokens (>= 1) after which to read a score, increasing
    parent: str | None = None  # key of the state to start from, perhaps of a run of the same call; None: the start
    parent_tokens: int = 0  # how many tokens that state covers
    keep_parent: bool = True
    solution: Solution | None = None  # whole, whatever the parent; only for a host that reads text


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A run was read; its state is held under its key."""

    scores: tuple[Score, ...]
    tokens_read: int  # in the verifier's own tokens, written ones included
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The parent's state is not held: the run must be sent again with all its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """No score can be given for this run; it would be the same on any replica."""

    reason: str
    tokens_read: int = 0  # all the same
    flops: float = 0.0


Answer = Read | Missing | Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBlob:
    """A state on its way between stores, with what is needed to refuse it."""

    layout_version: int
    model_hash: str
    num_tokens: int
    data: npt.NDArray[np.float32]  # (state_numel,)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierInfo:
    """What a verifier says about itself."""

    name: str
    model_hash: str
    tokenizer_fingerprint: str
    state_bytes: int  # per trajectory, whatever its length; 0: none, or not of a fixed size
    flops_per_token: float  # for one of the policy's tokens; 0: each reading says what it cost


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What a host is loaded with."""

    name: str  # under which it is registered
    model: str  # folder of its checkpoint; empty for one without
    options: Any  # an instance of its entry's `options`
    slots: int = 1024  # states on the device
    host_slots: int = 4096  # states spilled to host memory
    batch_tokens: int = 4096  # most tokens, padding included, in one micro-batch
    device: str = "cpu"  # or cuda


class VerifierHost(Protocol):
    """What a replica serves. Not thread-safe: one thread calls it."""

    info: VerifierInfo

    @classmethod
    def load(cls, settings: HostSettings) -> "VerifierHost":
        """Raises ValueError when the model can't be loaded."""
        ...

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        """One answer for each run, in order. Where this raises, hangs or ends the process, the pool finds the run that
        does it, and that one alone is not judged."""
        ...

    def release(self, keys: Sequence[str]) -> None:
        """Forgets states; unknown keys are ignored."""
        ...

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        """Copies of states; None for one that is not held."""
        ...

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        """Holds copies under `keys`, skipping None. Raises ValueError for a state of another model."""
        ...
