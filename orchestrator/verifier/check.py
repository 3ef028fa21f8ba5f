"""Looks at what a verifier needs from outside, before anything heavy is loaded: neither torch nor Ray is needed."""

from collections.abc import Sequence

from orchestrator.core.checkpoints import check_policy_checkpoint, check_safetensors, read_checkpoint_config
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Budget
from orchestrator.policy.engines.arguments import check_owned
from orchestrator.policy.engines.clients import api_key
from orchestrator.verifier.resolve import ResolvedVerifier, of_member
from verifiers.generative_options import GenerativeOptions


def check_verifier(verifier: ResolvedVerifier) -> None:
    """Raises UserError for a missing folder, another architecture or cut-off weights; for a judge, too, whose engine
    can't be started or whose server's key is not there."""
    config, architectures = verifier.config, verifier.entry.architectures
    if verifier.members and config.model:
        raise UserError(f"verifier: an ensemble has no model but its members', got model {config.model}")
    for index, member in enumerate(verifier.members):
        with of_member(index):
            check_verifier(member)
    if isinstance(verifier.options, GenerativeOptions):
        _check_judge(verifier, verifier.options)
    if not architectures:
        return
    if not config.model:
        raise UserError("verifier: model must be the folder of a checkpoint, got nothing")
    found = read_checkpoint_config(config.model, "verifier").get("architectures") or []
    if not set(architectures) & set(found):
        got, wanted = ", ".join(map(str, found)) or "none", " or ".join(architectures)
        raise UserError(f"verifier: {config.model} holds the architecture {got}, {config.name} wants {wanted}")
    check_safetensors(config.model, "verifier")


def _check_judge(verifier: ResolvedVerifier, judge: GenerativeOptions) -> None:
    model = verifier.config.model
    if judge.url is not None:
        if not model:
            raise UserError(f"verifier: model must name a model of the server {judge.url}, got nothing")
        judge_key(judge)
    elif (engine := verifier.engine(policy_model="")) is not None:
        if engine.engine != "vllm":
            raise UserError(f"verifier.options.engine: wanted vllm (a server is options.url), got {engine.engine}")
        check_owned(engine.engine_args)
        check_policy_checkpoint(model, "verifier")


def judge_key(judge: GenerativeOptions) -> str | None:
    """The key of the judge's server. Raises UserError where the environment does not hold it."""
    return api_key(judge.api_key_env, "verifier.options.api_key_env")


def check_budgets(verifier: ResolvedVerifier, budgets: Sequence[Budget]) -> None:
    """Raises UserError for caps that can't be kept: a verifier of text knows what it read only after it has read it."""
    if not verifier.entry.reads_text and not verifier.members:
        return
    capped = [name for name in ("verifier_tokens", "flops") if any(getattr(b, name) is not None for b in budgets)]
    if capped:
        raise UserError(
            f"budget: {' and '.join(capped)} can't be capped with the verifier {verifier.name}, which counts in"
            " tokens of its own; wanted caps on policy_tokens, candidates or seconds"
        )
