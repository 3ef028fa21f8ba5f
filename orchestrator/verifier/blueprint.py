"""What the replicas of a verifier are made of."""

from dataclasses import replace
from pathlib import Path

from orchestrator.core.config import most_replicas
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.replicas.placement import placement_options
from orchestrator.replicas.scaling import scaling_of
from orchestrator.verifier.actor import VerifierActor
from orchestrator.verifier.resolve import ResolvedVerifier

# glibc returns large blocks to the system and has them faulted in anew, which at tensors of some MB costs a CPU more
# than their arithmetic. With these it keeps what was freed.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}


def verifier_blueprint(verifier: ResolvedVerifier) -> Blueprint:
    config = verifier.config
    options = {
        "runtime_env": {"env_vars": _MALLOC},
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        **placement_options(config.placement),
    }
    return Blueprint(
        kind="verifier",
        actor=VerifierActor,
        arguments=lambda index: (verifier,),
        options=lambda: options,
        replicas=most_replicas(config),
        scaling=scaling_of(config),
        max_restarts=config.max_restarts,
        start_timeout_s=config.start_timeout_s,
        stall_timeout_s=config.stall_timeout_s,
    )


def absolute(verifier: ResolvedVerifier) -> ResolvedVerifier:
    """With its folder as an absolute path: an actor has a working directory of its own."""
    if (model := Path(verifier.config.model)).exists():
        return replace(verifier, config=replace(verifier.config, model=str(model.absolute())))
    return verifier
