"""Opens the verifier that a configuration names, of whatever kind: hosted by a pool, written, or made of others."""

from contextlib import AsyncExitStack

from orchestrator.core.config import StepConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.policy.pool import PolicyPool
from orchestrator.verifier.chains import ChainWriter, PolicyWriter
from orchestrator.verifier.check import engine_config, verifier_options
from orchestrator.verifier.ensemble import EnsembleVerifier
from orchestrator.verifier.generative import GenerativeVerifier
from orchestrator.verifier.opened import OpenVerifier
from orchestrator.verifier.pool import VerifierPool
from verifiers.ensemble import Ensemble
from verifiers.generative_options import GenerativeOptions


async def open_verifier(stack: AsyncExitStack, config: VerifierConfig, *, policy: PolicyPool) -> OpenVerifier:
    """Ready to judge what `policy` writes; the stack closes it. Ray must be initialised.

    Raises UserError, also where it reads tokens of another vocabulary than the policy's, and ReplicaError.
    """
    options = verifier_options(config)
    if isinstance(options, Ensemble):
        members = [await open_verifier(stack, member, policy=policy) for member in options.members]
        return EnsembleVerifier(options, members)
    if isinstance(options, GenerativeOptions):
        return GenerativeVerifier(options, await _open_writer(stack, config, options, policy))
    pool = await stack.enter_async_context(VerifierPool.open(config))
    if pool.info.tokenizer_fingerprint not in ("", policy.fingerprint):  # "": any tokens will do
        raise UserError(
            f"verifier.model: {config.model} was trained with another tokenizer than {policy.model}; "
            "wanted the same vocabulary"
        )
    return pool


async def _open_writer(
    stack: AsyncExitStack, config: VerifierConfig, judge: GenerativeOptions, policy: PolicyPool
) -> ChainWriter:
    if judge.url is not None:
        from orchestrator.verifier.url_writer import UrlWriter  # the client takes seconds to import

        return await stack.enter_async_context(UrlWriter.open(judge, config.model))
    engine = engine_config(config, judge, policy.model)
    if engine is None:
        return PolicyWriter(policy)
    return PolicyWriter(await stack.enter_async_context(PolicyPool.open(engine, StepConfig())))
