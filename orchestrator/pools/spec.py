"""What a named pool keeps, and whether that is what a command wants."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import UserError
from orchestrator.policy.blueprint import absolute, policy_blueprint
from orchestrator.policy.open import POLICY_PART
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.verifier.open import blueprints
from orchestrator.verifier.resolve import ResolvedVerifier

# what changes how fast a pool is and nothing that it says: the pool's own values hold
_OF_THE_POOL = {
    "policy": {
        "replicas",
        "min_replicas",
        "max_replicas",
        "placement",
        "max_num_seqs",
        "spare_seqs",
        "kv_cache_gib",
        "gpu_memory_utilization",
        "num_gpus",
        "urls",
        "api_key_env",
        "request_timeout_s",
        "max_restarts",
        "start_timeout_s",
        "stall_timeout_s",
    },
    "verifier": {
        "replicas",
        "min_replicas",
        "max_replicas",
        "placement",
        "slots",
        "host_slots",
        "batch_tokens",
        "num_cpus",
        "num_gpus",
        "max_restarts",
        "start_timeout_s",
        "stall_timeout_s",
    },
    "steps": set[str](),
}


def versions() -> dict[str, str]:
    """What both sides of an attachment must have alike."""
    return {"headrace": importlib.metadata.version("headrace"), "python": platform.python_version()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """A policy and a verifier, as their configurations resolve: folders are absolute."""

    name: str
    policy: PolicyConfig
    steps: StepConfig
    verifier: ResolvedVerifier | None
    threads: int | None = None  # of each engine; None: an even share
    versions: Mapping[str, str] = field(default_factory=versions)

    def blueprints(self) -> dict[str, Blueprint]:
        """Of all its parts."""
        found = {POLICY_PART: policy_blueprint(absolute(self.policy), self.steps, self.threads)}
        if self.verifier is not None:
            found |= blueprints(self.verifier, self.policy.model)
        return found

    def check_fits(self, policy: PolicyConfig, steps: StepConfig, verifier: ResolvedVerifier | None) -> None:
        """Raises UserError, naming the first difference, where the pool is not what a command wants."""
        for name, here in versions().items():
            if (there := self.versions.get(name)) != here:
                raise UserError(f"pool: {self.name} runs {name} {there}, here is {here}; wanted the same")
        wanted = {"policy": asdict(absolute(policy)), "steps": asdict(steps)}
        found = {"policy": asdict(absolute(self.policy)), "steps": asdict(self.steps)}
        if verifier is not None:
            if self.verifier is None:
                raise UserError(f"pool: {self.name} has no verifier, and {verifier.name} is wanted")
            wanted["verifier"], found["verifier"] = asdict(verifier.config), asdict(self.verifier.config)
        for part, settings in wanted.items():
            for key, got, have in _differences(settings, found[part], part):
                if key.split(".")[1] not in _OF_THE_POOL[part]:
                    raise UserError(f"pool: {self.name} has {key}: {_told(have)}, got {_told(got)}; wanted the same")


def _differences(got: Any, have: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(got, Mapping) and isinstance(have, Mapping):
        for name in {**got, **have}:
            yield from _differences(got.get(name), have.get(name), f"{key}.{name}")
    elif got != have:
        yield key, got, have


def _told(value: Any) -> str:
    return json.dumps(value, default=str)
