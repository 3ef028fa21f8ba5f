"""Opens the two pools that a search runs on, and checks that they fit together."""

from contextlib import AsyncExitStack

from orchestrator.config import PolicyConfig, StepConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.policy.pool import PolicyPool
from orchestrator.verifier.pool import VerifierPool


async def open_pools(
    stack: AsyncExitStack, *, policy: PolicyConfig, steps: StepConfig, verifier: VerifierConfig | None
) -> tuple[PolicyPool, VerifierPool | None]:
    """Both pools; the stack closes them. Raises UserError when their tokenizers differ."""
    writing = await stack.enter_async_context(PolicyPool.open(policy, steps))
    if verifier is None:
        return writing, None
    judging = await stack.enter_async_context(VerifierPool.open(verifier))
    if judging.hello().tokenizer_fingerprint not in ("", writing.fingerprint):  # "": any tokens will do
        raise UserError(
            f"verifier.model: {verifier.model} was trained with another tokenizer than {policy.model}; "
            "wanted the same vocabulary"
        )
    return writing, judging
