"""What all that talks to servers has in common: their keys, and what a client's error says.

A key stands in the environment, and never in a configuration, a log or a result.
"""

import os

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import UserError


def api_key(config: PolicyConfig) -> str | None:
    """The key of the servers. Raises UserError where the environment does not hold it."""
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env)
    if not key:
        raise UserError(f"policy.api_key_env: the environment variable {config.api_key_env} is not set")
    return key


def one_line(error: Exception) -> str:
    """What a client's error says."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
