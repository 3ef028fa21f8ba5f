"""What the replicas of a policy are made of."""

import os
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.core.config import PolicyConfig, StepConfig, most_replicas
from orchestrator.policy.actor import PolicyActor, first_of_threads, resources
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.replicas.placement import placement_options
from orchestrator.replicas.scaling import scaling_of


def policy_blueprint(config: PolicyConfig, steps: StepConfig, threads: int | None = None) -> Blueprint:
    """`threads` of each engine; None: what OMP_NUM_THREADS says here."""
    threads = threads or first_of_threads(os.environ.get("OMP_NUM_THREADS", ""))  # holds for replicas, too
    return Blueprint(
        kind="policy",
        actor=PolicyActor,
        arguments=lambda index: (config, steps, index, threads),
        options=partial(_options, config),
        replicas=most_replicas(config),
        scaling=scaling_of(config),
        max_restarts=config.max_restarts,
        start_timeout_s=config.start_timeout_s,
        stall_timeout_s=config.stall_timeout_s,
    )


def _options(config: PolicyConfig) -> dict[str, Any]:
    return {**resources(config), **placement_options(config.placement)}


def absolute(config: PolicyConfig) -> PolicyConfig:
    """With its folders as absolute paths: an actor has a working directory of its own."""
    model, tokenizer = (
        os.path.abspath(path) if path and os.path.isdir(path) else path for path in (config.model, config.tokenizer)
    )
    return replace(config, model=model, tokenizer=tokenizer)
