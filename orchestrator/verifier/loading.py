"""Loads the host of a verifier into this process. Imports what the host imports, so perhaps torch."""

from importlib import import_module
from typing import Any

from orchestrator.core.config import VerifierConfig
from verifiers import VerifierEntry
from verifiers.contract import HostSettings, VerifierHost


def load_host(entry: VerifierEntry, options: Any, config: VerifierConfig) -> VerifierHost:
    """`entry` is of a verifier that is hosted. Raises ValueError when the model can't be loaded."""
    assert entry.host is not None, f"{config.name} is not hosted"
    module, _, name = entry.host.partition(":")
    cls: type[VerifierHost] = getattr(import_module(module), name)
    return cls.load(
        HostSettings(
            name=config.name,
            model=config.model,
            options=options,
            slots=config.slots,
            host_slots=config.host_slots,
            batch_tokens=config.batch_tokens,
            device="cuda" if config.num_gpus else "cpu",
        )
    )
