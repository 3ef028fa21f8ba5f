"""What a run's configuration names, looked at in two parts: what needs no file, and the files."""

from dataclasses import dataclass

from experiments.config import NamedStrategy, RunConfig, make_strategies, resolve_path
from orchestrator.core.checkpoints import check_policy_checkpoint
from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Problem
from orchestrator.policy.resolve import (
    check_sampling,
    check_strategies,
    is_chat_api,
    refuse_chat_api,
    settled_policy,
)
from orchestrator.runner import Job, check_distinct
from orchestrator.verifier.check import check_budgets, check_verifier
from orchestrator.verifier.resolve import ResolvedVerifier, resolve

_ANY = Problem(id="any", messages=())  # of a data set the ids are unique


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a configuration names, each fit for the others."""

    strategies: tuple[NamedStrategy, ...]
    policy: PolicyConfig  # the configuration's, its model's path made absolute
    verifier: ResolvedVerifier | None  # None when no strategy asks it


def checked(config: RunConfig) -> Parts:
    """Raises UserError for what can't work, whatever the files hold: neither models nor data need be there."""
    strategies = make_strategies(config.strategies)
    needy = [named.name for named in strategies if named.strategy.needs_verifier]
    if needy and config.verifier is None:
        raise UserError(f"verifier: {', '.join(dict.fromkeys(needy))} scores candidates, got verifier: null")
    policy = settled_policy(config.policy, resolve_path)
    check_sampling(policy, config.sampling)
    check_strategies(policy, {named.name: named.strategy for named in strategies})
    verifier = None
    if needy and config.verifier is not None:
        verifier = resolve(config.verifier, resolve_path, answer=config.data.answer_rule)
        check_budgets(verifier, [config.budget, config.run_budget])
        if is_chat_api(policy) and verifier.reads_tokens:
            raise UserError(
                f"verifier: {verifier.name} reads token ids, and servers without policy.tokenizer return none"
            )
        by_steps = [n.name for n in strategies if n.strategy.needs_step_scores]
        if by_steps and not verifier.scores_steps:
            raise UserError(
                f"verifier: {', '.join(dict.fromkeys(by_steps))} wants a value for each step, "
                f"got {verifier.name}, which judges whole solutions only"
            )
    check_distinct(
        [
            Job(problem=_ANY, strategy_name=named.name, strategy=named.strategy, seed=seed)
            for named in strategies
            for seed in config.seeds
        ]
    )
    if config.drivers > 1:
        refuse_chat_api(policy, "more than one driver")
    return Parts(strategies=tuple(strategies), policy=policy, verifier=verifier)


def check_files(parts: Parts) -> None:
    """Raises UserError for checkpoints that are not there, or are not what they should be."""
    if parts.policy.engine != "openai":
        check_policy_checkpoint(parts.policy.model)
    if parts.verifier is not None:
        check_verifier(parts.verifier)
