"""Looks at a policy's configuration before anything heavy is loaded: neither torch nor Ray is needed."""

from collections.abc import Callable
from dataclasses import replace

from orchestrator.core.checkpoints import check_policy_checkpoint
from orchestrator.core.config import PolicyConfig
from orchestrator.policy.engines import check_engine


def resolve_policy(config: PolicyConfig, find: Callable[[str], str] = str) -> PolicyConfig:
    """The configuration with its model where `find` finds it. Raises UserError for an engine that there is not, and
    for a checkpoint that can't be a policy's."""
    check_engine(config.engine)
    config = replace(config, model=find(config.model))
    check_policy_checkpoint(config.model)
    return config
