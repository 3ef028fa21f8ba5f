"""Looks at a policy's configuration before anything heavy is loaded: neither torch nor Ray is needed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from orchestrator.core.checkpoints import check_policy_checkpoint
from orchestrator.core.config import PolicyConfig, most_replicas
from orchestrator.core.errors import UserError
from orchestrator.core.protocols import Sampling, Strategy
from orchestrator.policy.engines import check_engine
from orchestrator.policy.engines.arguments import check_owned
from orchestrator.policy.engines.clients import api_key

_OF_SERVERS = ("urls", "tokenizer", "api_key_env", "flops_per_token")
_OF_ENGINES = (
    "dtype",
    "kv_cache_gib",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "num_gpus",
    "block_size",
    "engine_args",
)


def resolve_policy(config: PolicyConfig, find: Callable[[str], str] = str) -> PolicyConfig:
    """As `settled_policy`. Raises UserError also for a checkpoint that is not there or can't be a policy's."""
    config = settled_policy(config, find)
    if config.engine != "openai":
        check_policy_checkpoint(config.model)
    return config


def settled_policy(config: PolicyConfig, find: Callable[[str], str] = str) -> PolicyConfig:
    """The configuration with its folders where `find` finds them, and a replica for each server. Raises UserError for
    an engine that there is not, and for settings of another engine. The folders need not be there."""
    check_engine(config.engine)
    if config.engine == "openai":
        return _of_servers(config, find)
    _refuse(config, _OF_SERVERS)
    check_owned(config.engine_args)
    return replace(config, model=find(config.model))


def _of_servers(config: PolicyConfig, find: Callable[[str], str]) -> PolicyConfig:
    _refuse(config, _OF_ENGINES)
    if not config.urls:
        raise UserError("policy.urls: wanted the address of one server or more, as http://host:8000/v1, got none")
    for url in config.urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"policy.urls: wanted http://host:8000/v1, got {url}")
        if parts.username is not None or parts.password is not None:
            raise UserError(f"policy.urls: {parts.hostname}: a key does not belong in an address; wanted api_key_env")
    if most_replicas(config) not in (1, len(config.urls)):
        key = "replicas" if config.max_replicas is None else "max_replicas"
        raise UserError(f"policy.{key}: each of {len(config.urls)} urls is a replica, got {most_replicas(config)}")
    if not config.tokenizer and config.tool_parser not in ("auto", "none"):
        raise UserError(
            f"policy.tool_parser: {config.tool_parser} needs policy.tokenizer with the engine openai, got none"
        )
    api_key(config.api_key_env, "policy.api_key_env")
    tokenizer = find(config.tokenizer) if config.tokenizer else ""
    if config.max_replicas is None:
        config = replace(config, replicas=len(config.urls))
    return replace(config, tokenizer=tokenizer)


def is_chat_api(config: PolicyConfig) -> bool:
    """Whether it is servers that return text and no token ids: without a tokenizer there is no use for these."""
    return config.engine == "openai" and not config.tokenizer


def refuse_chat_api(config: PolicyConfig, who: str) -> None:
    """Raises UserError where the policy is a chat API, for `who` needs token ids."""
    if is_chat_api(config):
        raise UserError(f"policy.tokenizer: {who} needs token ids, which servers tell with a tokenizer; got none")


def check_sampling(config: PolicyConfig, sampling: Sampling) -> None:
    """Raises UserError for what the policy can't keep to."""
    if is_chat_api(config) and sampling.max_thinking_tokens is not None:
        raise UserError(
            "sampling.max_thinking_tokens: the thinking of a chat API can't be ended from here; wanted null, or "
            "policy.tokenizer"
        )


def check_strategies(config: PolicyConfig, strategies: Mapping[str, Strategy]) -> None:
    """Raises UserError for strategies, by their names, that the policy can't serve."""
    needy = [name for name, strategy in strategies.items() if strategy.needs_tokens]
    if needy and is_chat_api(config):
        raise UserError(
            f"policy: {', '.join(needy)} goes on from what was written, or stops a sample early, and servers without "
            "policy.tokenizer return text only; wanted policy.tokenizer, or strategies of whole completions"
        )


def _refuse(config: PolicyConfig, names: tuple[str, ...]) -> None:
    """Raises UserError where a setting means nothing to the engine."""
    usual = PolicyConfig(model=config.model)
    for name in names:
        if (got := getattr(config, name)) != getattr(usual, name):
            raise UserError(f"policy.{name}: means nothing to the engine {config.engine}, got {got}")
