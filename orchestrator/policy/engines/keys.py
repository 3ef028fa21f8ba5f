"""Keys of servers. They stand in the environment, and never in a configuration, a log or a result."""

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
