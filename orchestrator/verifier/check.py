"""Looks at a verifier's configuration before anything heavy is loaded: neither torch nor Ray is needed."""

import difflib

from orchestrator.checkpoints import check_safetensors, read_checkpoint_config
from orchestrator.config import VerifierConfig
from orchestrator.core.errors import UserError
from verifiers import VERIFIERS, VerifierEntry


def verifier_entry(config: VerifierConfig) -> VerifierEntry:
    """The registered verifier. Raises UserError that lists the valid names."""
    if config.name not in VERIFIERS:
        nearest = difflib.get_close_matches(config.name, VERIFIERS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"verifier: unknown name {config.name!r}, valid names are {', '.join(sorted(VERIFIERS))}{hint}")
    return VERIFIERS[config.name]


def check_verifier(config: VerifierConfig) -> None:
    """Raises UserError for an unknown name, a missing folder, another architecture or a truncated checkpoint."""
    entry = verifier_entry(config)
    if entry.architecture is None:
        return
    if not config.model:
        raise UserError("verifier: model must be the folder of a checkpoint, got nothing")
    architectures = read_checkpoint_config(config.model, "verifier").get("architectures") or []
    if entry.architecture not in architectures:
        got = ", ".join(map(str, architectures)) or "none"
        raise UserError(
            f"verifier: {config.model} holds the architecture {got}, {config.name} wants {entry.architecture}"
        )
    check_safetensors(config.model, "verifier")
