"""Loads the host of a verifier into this process. Imports what the host imports, so perhaps torch."""

from importlib import import_module

from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.contract import HostSettings, VerifierHost


def host_class(verifier: ResolvedVerifier) -> type[VerifierHost]:
    """Of a verifier that replicas host."""
    host = verifier.entry.host
    assert host is not None, f"{verifier.name} is not hosted"
    module, _, name = host.partition(":")
    cls: type[VerifierHost] = getattr(import_module(module), name)
    return cls


def load_host(verifier: ResolvedVerifier) -> VerifierHost:
    """Raises ValueError when the model can't be loaded."""
    config = verifier.config
    return host_class(verifier).load(
        HostSettings(
            name=config.name,
            model=config.model,
            options=verifier.options,
            slots=config.slots,
            host_slots=config.host_slots,
            batch_tokens=config.batch_tokens,
            device="cuda" if config.num_gpus else "cpu",
        )
    )
