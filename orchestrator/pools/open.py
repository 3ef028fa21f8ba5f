"""Opens what a search runs on: a policy, and a verifier that fits it, of its own or of a named pool."""

from contextlib import AsyncExitStack

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.policy.open import open_policy
from orchestrator.policy.opened import OpenPolicy
from orchestrator.pools.client import PoolClient
from orchestrator.verifier.open import open_verifier
from orchestrator.verifier.opened import OpenVerifier
from orchestrator.verifier.resolve import ResolvedVerifier


async def open_pools(
    stack: AsyncExitStack,
    *,
    policy: PolicyConfig,
    steps: StepConfig,
    verifier: ResolvedVerifier | None,
    pool: str | None = None,
) -> tuple[OpenPolicy, OpenVerifier | None]:
    """Both; the stack closes them. `pool`: a named one, whose replicas are used and left as they are.

    Raises UserError when the verifier reads tokens of another vocabulary, or the named pool keeps something else.
    """
    kept = None
    if pool is not None:
        kept = await stack.enter_async_context(PoolClient.attached(pool))
        kept.spec.check_fits(policy, steps, verifier)
        policy, verifier = kept.spec.policy, None if verifier is None else kept.spec.verifier
    writing = await stack.enter_async_context(open_policy(policy, steps, kept))
    if verifier is None:
        return writing, None
    return writing, await open_verifier(stack, verifier, policy=writing, kept=kept)
