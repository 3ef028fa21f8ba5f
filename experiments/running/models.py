"""The models that searches run on, opened once for as many runs as want the same ones."""

import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.policy.open import open_policy
from orchestrator.policy.opened import OpenPolicy
from orchestrator.pools.open import open_pools
from orchestrator.pools.service import own_pool
from orchestrator.pools.spec import PoolSpec
from orchestrator.verifier.open import open_verifier
from orchestrator.verifier.opened import OpenVerifier
from orchestrator.verifier.resolve import ResolvedVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a run needs, as its configuration resolves."""

    policy: PolicyConfig
    steps: StepConfig
    verifier: ResolvedVerifier | None  # None: no strategy asks it
    pool: str | None  # a named pool that keeps them; None: they are started
    shared: bool  # by several drivers: they need a keeper, whose pool has a name

    @property
    def alone(self) -> bool:
        """Whether policy and verifier are opened one by one, and not as a pool."""
        return self.pool is None and not self.shared

    def serves(self, other: "Wanted") -> bool:
        """Whether what was opened for this is all that the other needs."""
        return other.verifier in (None, self.verifier) and self.same_policy(other)

    def same_policy(self, other: "Wanted") -> bool:
        return replace(self, verifier=None) == replace(other, verifier=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What is open."""

    policy: OpenPolicy
    verifier: OpenVerifier | None
    pool: str | None  # the name of the pool that keeps them; None: this process does


class OpenModels:
    """Owner of what is open: the models of one run after another. What the next run needs, too, stays open.

    async with OpenModels() as models:
        opened = await models.fit(wanted, on_stage)
    """

    def __init__(self) -> None:
        self._for: Wanted | None = None
        self._models: Models | None = None
        self._stack = AsyncExitStack()
        self._verifier_stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def fit(self, wanted: Wanted, on_stage: Callable[[str], None]) -> Models:
        """What is wanted, opened where it is not yet. Raises UserError and ReplicaError, and then keeps nothing."""
        if self._for is not None and self._models is not None and self._for.serves(wanted):
            return self._models if wanted.verifier is not None else replace(self._models, verifier=None)
        try:
            keeps = self._for is not None and wanted.alone and self._for.same_policy(wanted)
            if keeps and self._models is not None:
                await self._verifier_stack.aclose()
                policy = self._models.policy
            else:
                await self.close()
                policy = None
            self._for, self._models = wanted, await self._open(wanted, policy, on_stage)
        except BaseException:
            await self.close()
            raise
        return self._models

    async def close(self) -> None:
        """Ends what is open. Closing twice is allowed."""
        self._for = self._models = None
        try:
            await self._verifier_stack.aclose()
        finally:
            await self._stack.aclose()

    async def _open(self, wanted: Wanted, policy: OpenPolicy | None, on_stage: Callable[[str], None]) -> Models:
        parts = (["the policy"] if policy is None else []) + (["the verifier"] if wanted.verifier else [])
        on_stage(f"starting {' and '.join(parts)}")
        if wanted.alone:
            if policy is None:
                policy = await self._stack.enter_async_context(open_policy(wanted.policy, wanted.steps))
            verifier = None
            if wanted.verifier is not None:
                verifier = await open_verifier(self._verifier_stack, wanted.verifier, policy=policy)
            return Models(policy=policy, verifier=verifier, pool=None)
        pool = wanted.pool
        if pool is None:
            pool = uuid.uuid4().hex
            spec = PoolSpec(name=pool, policy=wanted.policy, steps=wanted.steps, verifier=wanted.verifier)
            await self._stack.enter_async_context(own_pool(spec))
        opened, verifier = await open_pools(
            self._stack, policy=wanted.policy, steps=wanted.steps, verifier=wanted.verifier, pool=pool
        )
        return Models(policy=opened, verifier=verifier, pool=pool)
