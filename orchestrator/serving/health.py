"""Whether the pools can serve: the policy's replicas are asked, and the verifier for a verdict."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from orchestrator.core.errors import HeadraceError, ReplicaError
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import ScoreRequest, Solution
from orchestrator.policy.opened import OpenPolicy
from orchestrator.serving.metrics import ReplicaStats
from orchestrator.serving.service import Health
from orchestrator.verifier.opened import OpenVerifier

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0  # of one check
_TRY_AGAIN_S = 5.0
_PROVEN_S = 30.0  # so long a verdict may wait behind those of searches
_PROBLEM, _STEP = Problem.from_prompt("health", "What is 2 + 2?"), "4"


class Proof:
    """Shows that something works by doing it, at most every few seconds, however often it is asked."""

    def __init__(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """`attempt` raises HeadraceError when it does not work. It runs outside the context of who asks."""
        self._attempt = attempt
        self._trying: asyncio.Task[None] | None = None
        self._tried_at, self._proven_at = float("-inf"), float("-inf")

    async def holds(self) -> bool:
        """False when the last attempt failed, or when none has succeeded for long."""
        clock = asyncio.get_running_loop().time
        if self._trying is None or (self._trying.done() and clock() - self._tried_at > _TRY_AGAIN_S):
            self._tried_at = clock()
            self._trying = asyncio.create_task(self._try(), context=Context())
        if clock() - self._proven_at > _TRY_AGAIN_S:
            await asyncio.wait([self._trying], timeout=_TIMEOUT_S)
        return clock() - self._proven_at <= _PROVEN_S

    async def _try(self) -> None:
        proven_at = float("-inf")
        try:
            await self._attempt()
            proven_at = asyncio.get_running_loop().time()
        except HeadraceError as error:
            log.warning("a health check failed: %s", error)
        finally:
            self._proven_at = proven_at


class PoolsHealth:
    """Asks both pools."""

    def __init__(self, policy: OpenPolicy, verifier: OpenVerifier | None) -> None:
        self._policy = policy
        self._verifier = verifier
        self._judges = Proof(self._judge)

    async def __call__(self) -> Health:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                writing = await self._policy.stats()
        except (TimeoutError, ReplicaError):
            writing = []
        counts = {name: sum(stats[name] for stats in writing) for name in ("running", "sampled_tokens")}
        ready, verifier = bool(writing), None
        if self._verifier is not None:
            judges = await self._judges.holds()
            verifier = {"replicas": self._verifier.num_ready, "judges": judges}
            ready = ready and judges
        detail: dict[str, Any] = {"policy": {"replicas": len(writing), **counts}, "verifier": verifier}
        return Health(ready=ready, detail=detail)

    async def replicas(self) -> ReplicaStats:
        """What the replicas report. Raises ReplicaError."""
        reading = () if self._verifier is None else await self._verifier.stats()
        return ReplicaStats(policy=await self._policy.stats(), verifier=reading)

    async def _judge(self) -> None:
        """Has the verifier judge a solution of one step. That it can't judge this one is an answer, too."""
        assert self._verifier is not None
        [prompt_ids] = await self._policy.encode([_PROBLEM])
        [step_ids] = await self._policy.encode_text([_STEP])
        token_ids = (*prompt_ids, *step_ids)
        solution = Solution(problem=_PROBLEM, steps=(_STEP,), asked=(0,), ended=True)
        reading = ScoreRequest(
            token_ids=token_ids,
            boundaries=(len(token_ids),),
            solution=solution if self._verifier.reads_text else None,
        )
        [verdict] = await self._verifier.score([reading])
        if verdict.handle is not None:
            self._verifier.release([verdict.handle])
