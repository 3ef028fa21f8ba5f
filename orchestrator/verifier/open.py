"""Opens the verifier that a configuration names, of whatever kind: hosted by a pool, written, or made of others."""

from contextlib import AsyncExitStack

from orchestrator.core.config import StepConfig
from orchestrator.core.errors import UserError
from orchestrator.policy.opened import OpenPolicy
from orchestrator.policy.pool import PolicyPool
from orchestrator.verifier.chains import ChainWriter, PolicyWriter
from orchestrator.verifier.ensemble import EnsembleVerifier
from orchestrator.verifier.generative import GenerativeVerifier
from orchestrator.verifier.opened import OpenVerifier
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.ensemble import Ensemble
from verifiers.generative_options import GenerativeOptions


async def open_verifier(stack: AsyncExitStack, verifier: ResolvedVerifier, *, policy: OpenPolicy) -> OpenVerifier:
    """Ready to judge what `policy` writes; the stack closes it. Ray must be initialised.

    Raises UserError, also where it reads tokens of another vocabulary than the policy's, and ReplicaError.
    """
    options = verifier.options
    if isinstance(options, Ensemble):
        members = [await open_verifier(stack, member, policy=policy) for member in verifier.members]
        return EnsembleVerifier(options, members)
    if isinstance(options, GenerativeOptions):
        return GenerativeVerifier(options, await _open_writer(stack, verifier, options, policy))
    pool = await stack.enter_async_context(VerifierPool.open(verifier))
    if pool.info.tokenizer_fingerprint not in ("", policy.fingerprint):  # "": any tokens will do
        raise UserError(
            f"verifier.model: {verifier.config.model} was trained with another tokenizer than {policy.model}; "
            "wanted the same vocabulary"
        )
    return pool


async def _open_writer(
    stack: AsyncExitStack, verifier: ResolvedVerifier, judge: GenerativeOptions, policy: OpenPolicy
) -> ChainWriter:
    if judge.url is not None:
        from orchestrator.verifier.url_writer import UrlWriter  # the client takes seconds to import

        return await stack.enter_async_context(UrlWriter.open(judge, verifier.config.model))
    engine = verifier.engine(policy.model)
    if engine is None:
        return PolicyWriter(policy)
    return PolicyWriter(await stack.enter_async_context(PolicyPool.open(engine, StepConfig())))
