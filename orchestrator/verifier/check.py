"""Looks at a verifier's configuration before anything heavy is loaded: neither torch nor Ray is needed."""

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from orchestrator.core.checkpoints import check_policy_checkpoint, check_safetensors, read_checkpoint_config
from orchestrator.core.config import PolicyConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Budget
from orchestrator.typed import typed
from verifiers import VERIFIERS, VerifierEntry
from verifiers.ensemble import Ensemble
from verifiers.generative_options import GenerativeOptions
from verifiers.transformer_options import Engine, PooledOptions


def verifier_entry(config: VerifierConfig) -> VerifierEntry:
    """The registered verifier. Raises UserError that lists the valid names."""
    if config.name not in VERIFIERS:
        nearest = difflib.get_close_matches(config.name, VERIFIERS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"verifier: unknown name {config.name!r}, valid names are {', '.join(sorted(VERIFIERS))}{hint}")
    return VERIFIERS[config.name]


def verifier_options(config: VerifierConfig) -> Any:
    """An instance of the entry's options, from YAML. Raises UserError for an unknown key or a bad value."""
    cls = verifier_entry(config).options
    try:
        return typed(cls, config.options, "verifier.options")
    except UserError as error:
        valid = ", ".join(f.name for f in fields(cls)) or "none"
        message = str(error).replace(f"'{cls.__name__}'", config.name)
        raise UserError(f"{message}; options of {config.name}: {valid}") from None


def scores_steps(config: VerifierConfig) -> bool:
    """Whether it judges steps; else whole solutions only."""
    options = verifier_options(config)
    if isinstance(options, Ensemble):
        return all(scores_steps(member) for member in options.members)
    return verifier_entry(config).scores_steps


def with_paths(config: VerifierConfig, resolve: Callable[[str], str]) -> VerifierConfig:
    """The configuration with its model, and those of an ensemble's members, as `resolve` finds them. No model stays
    none. Raises UserError for options that are no good."""
    model = resolve(config.model) if config.model else ""
    options = verifier_options(config)
    if not isinstance(options, Ensemble):
        return replace(config, model=model)
    members = [asdict(with_paths(member, resolve)) for member in options.members]
    return replace(config, model=model, options={**config.options, "members": members})


def engine_config(config: VerifierConfig, judge: GenerativeOptions, policy_model: str) -> PolicyConfig | None:
    """The engine that writes for a judge; None: the run's own policy does, or a server. Raises UserError."""
    if judge.url is not None or config.model in ("", policy_model):
        if judge.engine:
            raise UserError(
                "verifier.options.engine: no engine is started where the policy itself writes, got settings"
            )
        return None
    own = {
        "model": config.model,
        "replicas": config.replicas,
        "max_restarts": config.max_restarts,
        "start_timeout_s": config.start_timeout_s,
        "stall_timeout_s": config.stall_timeout_s,
    }
    if twice := own.keys() & judge.engine.keys():
        names = ", ".join(sorted(twice))
        raise UserError(f"verifier.options.engine: {names} must be set in verifier itself")
    return typed(PolicyConfig, {**own, **judge.engine}, "verifier.options.engine")


def api_key(judge: GenerativeOptions) -> str | None:
    """The key of the judge's server. Raises UserError where the environment does not hold it."""
    if judge.api_key_env is None:
        return None
    key = os.environ.get(judge.api_key_env)
    if not key:
        raise UserError(f"verifier.options.api_key_env: the environment variable {judge.api_key_env} is not set")
    return key


def num_actors(config: VerifierConfig, policy_model: str) -> int:
    """How many Ray actors it starts beside the policy's."""
    options = verifier_options(config)
    if isinstance(options, Ensemble):
        return sum(num_actors(member, policy_model) for member in options.members)
    if isinstance(options, GenerativeOptions):
        engine = engine_config(config, options, policy_model)
        return 0 if engine is None else engine.replicas
    return config.replicas


def hosted_entry(config: VerifierConfig) -> VerifierEntry:
    """The entry with the host that serves it on the engine of its options. Raises UserError where nothing is hosted."""
    entry, options = verifier_entry(config), verifier_options(config)
    if entry.host is None:
        raise UserError(f"verifier: wanted one that replicas can host, got {config.name}")
    if isinstance(options, PooledOptions) and options.engine is Engine.vllm:
        return replace(entry, host="orchestrator.verifier.pooling_host:PoolingHost")
    return entry


def check_budgets(config: VerifierConfig, budgets: Sequence[Budget]) -> None:
    """Raises UserError for caps that can't be kept: a verifier of text knows what it read only after it has read it."""
    if not verifier_entry(config).reads_text and not isinstance(verifier_options(config), Ensemble):
        return
    capped = [name for name in ("verifier_tokens", "flops") if any(getattr(b, name) is not None for b in budgets)]
    if capped:
        raise UserError(
            f"budget: {' and '.join(capped)} can't be capped with the verifier {config.name}, which counts in"
            " tokens of its own; wanted caps on policy_tokens, candidates or seconds"
        )


def check_verifier(config: VerifierConfig) -> None:
    """Raises UserError for an unknown name or option, a missing folder, another architecture or cut-off weights; for
    a judge, too, whose engine can't be started or whose server's key is not there."""
    entry = verifier_entry(config)
    options = verifier_options(config)
    if isinstance(options, Ensemble):
        if config.model:
            raise UserError(f"verifier: an ensemble has no model but its members', got model {config.model}")
        for index, member in enumerate(options.members):
            try:
                check_verifier(member)
            except UserError as error:
                raise UserError(f"verifier.options.members[{index}]: {error}") from None
    if isinstance(options, GenerativeOptions):
        _check_judge(config, options)
    if not entry.architectures:
        return
    if not config.model:
        raise UserError("verifier: model must be the folder of a checkpoint, got nothing")
    architectures = read_checkpoint_config(config.model, "verifier").get("architectures") or []
    if not set(entry.architectures) & set(architectures):
        got, wanted = ", ".join(map(str, architectures)) or "none", " or ".join(entry.architectures)
        raise UserError(f"verifier: {config.model} holds the architecture {got}, {config.name} wants {wanted}")
    check_safetensors(config.model, "verifier")


def _check_judge(config: VerifierConfig, judge: GenerativeOptions) -> None:
    if judge.url is not None:
        if not config.model:
            raise UserError(f"verifier: model must name a model of the server {judge.url}, got nothing")
        api_key(judge)
    elif engine_config(config, judge, policy_model="") is not None:
        check_policy_checkpoint(config.model, "verifier")
