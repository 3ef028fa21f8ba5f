"""Looks at a verifier's configuration before anything heavy is loaded: neither torch nor Ray is needed."""

import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.checkpoints import check_safetensors, read_checkpoint_config
from orchestrator.config import VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Budget
from verifiers import VERIFIERS, VerifierEntry
from verifiers.transformer_options import Engine, PooledOptions


def verifier_entry(config: VerifierConfig) -> VerifierEntry:
    """The registered verifier. Raises UserError that lists the valid names."""
    if config.name not in VERIFIERS:
        nearest = difflib.get_close_matches(config.name, VERIFIERS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"verifier: unknown name {config.name!r}, valid names are {', '.join(sorted(VERIFIERS))}{hint}")
    return VERIFIERS[config.name]


def verifier_options(config: VerifierConfig) -> Any:
    """An instance of the entry's options, from YAML. Raises UserError for an unknown key or a bad value."""
    cls = verifier_entry(config).options
    valid = ", ".join(f.name for f in fields(cls)) or "none"
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), config.options))
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0].replace(f"'{cls.__name__}'", config.name)
        raise UserError(f"verifier.options: {error.full_key}: {message}; options of {config.name}: {valid}") from None
    except ValueError as error:
        raise UserError(f"verifier.options: {error}") from None


def verifier_host(config: VerifierConfig) -> str:
    """The "module:class" that serves it, on the engine that its options name."""
    options = verifier_options(config)
    if isinstance(options, PooledOptions) and options.engine is Engine.vllm:
        return "orchestrator.verifier.pooling_host:PoolingHost"
    return verifier_entry(config).host


def check_budgets(config: VerifierConfig, budgets: Sequence[Budget]) -> None:
    """Raises UserError for caps that could not be kept, because what this verifier reads is known afterwards only."""
    if not verifier_entry(config).reads_text:
        return
    capped = [name for name in ("verifier_tokens", "flops") if any(getattr(b, name) is not None for b in budgets)]
    if capped:
        raise UserError(
            f"budget: {' and '.join(capped)} can't be capped with the verifier {config.name}, which counts in"
            " tokens of its own; wanted caps on policy_tokens, candidates or seconds"
        )


def check_verifier(config: VerifierConfig) -> None:
    """Raises UserError for an unknown name or option, a missing folder, another architecture or cut-off weights."""
    entry = verifier_entry(config)
    verifier_options(config)
    if not entry.architectures:
        return
    if not config.model:
        raise UserError("verifier: model must be the folder of a checkpoint, got nothing")
    architectures = read_checkpoint_config(config.model, "verifier").get("architectures") or []
    if not set(entry.architectures) & set(architectures):
        got, wanted = ", ".join(map(str, architectures)) or "none", " or ".join(entry.architectures)
        raise UserError(f"verifier: {config.model} holds the architecture {got}, {config.name} wants {wanted}")
    check_safetensors(config.model, "verifier")
