"""The policy pool: Ray actors around vLLM engines. `PolicyPool.open(config, steps)` is the way in."""

from orchestrator.policy.pool import PolicyPool

__all__ = ["PolicyPool"]
