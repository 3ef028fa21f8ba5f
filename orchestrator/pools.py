"""Opens what a search runs on: the policy pool, and a verifier that fits it."""

from contextlib import AsyncExitStack

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.policy.open import open_policy
from orchestrator.policy.opened import OpenPolicy
from orchestrator.verifier.open import open_verifier
from orchestrator.verifier.opened import OpenVerifier
from orchestrator.verifier.resolve import ResolvedVerifier


async def open_pools(
    stack: AsyncExitStack, *, policy: PolicyConfig, steps: StepConfig, verifier: ResolvedVerifier | None
) -> tuple[OpenPolicy, OpenVerifier | None]:
    """Both; the stack closes them. Raises UserError when the verifier reads tokens of another vocabulary."""
    writing = await stack.enter_async_context(open_policy(policy, steps))
    if verifier is None:
        return writing, None
    return writing, await open_verifier(stack, verifier, policy=writing)
