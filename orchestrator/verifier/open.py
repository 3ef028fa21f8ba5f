"""Opens the verifier that a configuration names, of whatever kind: hosted by a pool, written, or made of others."""

from contextlib import AsyncExitStack

from orchestrator.core.config import StepConfig
from orchestrator.core.errors import UserError
from orchestrator.policy import blueprint as policies
from orchestrator.policy.blueprint import policy_blueprint
from orchestrator.policy.opened import OpenPolicy
from orchestrator.policy.pool import PolicyPool
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.replicas.members import Kept
from orchestrator.verifier.blueprint import absolute, verifier_blueprint
from orchestrator.verifier.chains import ChainWriter, PolicyWriter
from orchestrator.verifier.ensemble import EnsembleVerifier
from orchestrator.verifier.generative import GenerativeVerifier
from orchestrator.verifier.opened import OpenVerifier
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.ensemble import Ensemble
from verifiers.generative_options import GenerativeOptions

VERIFIER_PART = "verifier"  # of a named pool


async def open_verifier(
    stack: AsyncExitStack,
    verifier: ResolvedVerifier,
    *,
    policy: OpenPolicy,
    kept: Kept | None = None,
    part: str = VERIFIER_PART,
) -> OpenVerifier:
    """Ready to judge what `policy` writes; the stack closes it, or leaves it to its keeper, whose `part` it is.

    Raises UserError, also where it reads tokens of another vocabulary than the policy's, and ReplicaError.
    """
    options = verifier.options
    if isinstance(options, Ensemble):
        members = [
            await open_verifier(stack, member, policy=policy, kept=kept, part=member_part(part, index))
            for index, member in enumerate(verifier.members)
        ]
        return EnsembleVerifier(options, members)
    if isinstance(options, GenerativeOptions):
        return GenerativeVerifier(options, await _open_writer(stack, verifier, options, policy, kept, part))
    if kept is None:
        opening = VerifierPool.open(verifier)
    else:
        opening = VerifierPool.attached(verifier, await kept.membership(part), kept.client)
    pool = await stack.enter_async_context(opening)
    if pool.info.tokenizer_fingerprint not in ("", policy.fingerprint):  # "": any tokens will do
        raise UserError(
            f"verifier.model: {verifier.config.model} was trained with another tokenizer than {policy.model}; "
            "wanted the same vocabulary"
        )
    return pool


async def _open_writer(
    stack: AsyncExitStack,
    verifier: ResolvedVerifier,
    judge: GenerativeOptions,
    policy: OpenPolicy,
    kept: Kept | None,
    part: str,
) -> ChainWriter:
    if judge.url is not None:
        from orchestrator.verifier.url_writer import UrlWriter  # the client takes seconds to import

        return await stack.enter_async_context(UrlWriter.open(judge, verifier.config.model))
    engine = verifier.engine(policy.model)
    if engine is None:
        return PolicyWriter(policy)
    if kept is None:
        opening = PolicyPool.open(engine, StepConfig())
    else:
        opening = PolicyPool.attached(engine, await kept.membership(part), kept.client)
    return PolicyWriter(await stack.enter_async_context(opening))


def blueprints(verifier: ResolvedVerifier, policy_model: str, part: str = VERIFIER_PART) -> dict[str, Blueprint]:
    """What a keeper must have for `open_verifier`, by part."""
    if isinstance(verifier.options, Ensemble):
        found: dict[str, Blueprint] = {}
        for index, member in enumerate(verifier.members):
            found |= blueprints(member, policy_model, member_part(part, index))
        return found
    if isinstance(verifier.options, GenerativeOptions):
        engine = verifier.engine(policy_model)
        return {} if engine is None else {part: policy_blueprint(policies.absolute(engine), StepConfig())}
    return {part: verifier_blueprint(absolute(verifier))}


def member_part(part: str, index: int) -> str:
    return f"{part}.{index}"
