"""A verifier's configuration with all that follows from it, found out once. Neither torch nor Ray is needed."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import PolicyConfig, VerifierConfig, most_replicas
from orchestrator.core.errors import UserError
from orchestrator.typed import typed
from verifiers import VERIFIERS, VerifierEntry
from verifiers.ensemble import Ensemble
from verifiers.generative_options import GenerativeOptions
from verifiers.rules import AnswerOptions
from verifiers.transformer_options import Engine, PooledOptions


@dataclass(frozen=True, kw_only=True)
class ResolvedVerifier:
    """What a configuration names. Made by `resolve`."""

    config: VerifierConfig
    entry: VerifierEntry  # with the host that serves it on the engine of its options
    options: Any  # an instance of `entry.options`
    members: tuple["ResolvedVerifier", ...] = ()  # of an ensemble

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def scores_steps(self) -> bool:
        """Whether it judges steps; else whole solutions only."""
        return all(member.scores_steps for member in self.members) if self.members else self.entry.scores_steps

    @property
    def reads_tokens(self) -> bool:
        """Whether it, or a member, reads the policy's token ids."""
        if self.members:
            return any(member.reads_tokens for member in self.members)
        return not self.entry.reads_text

    def engine(self, policy_model: str) -> PolicyConfig | None:
        """The engine that writes for a judge; None: the run's own policy does, or a server, or nothing is written.
        Raises UserError for settings that no engine can have."""
        judge, config = self.options, self.config
        if not isinstance(judge, GenerativeOptions):
            return None
        if judge.url is not None or config.model in ("", policy_model):
            if judge.engine:
                raise UserError(
                    "verifier.options.engine: no engine is started where the policy itself writes, got settings"
                )
            return None
        own = {
            "model": config.model,
            "replicas": config.replicas,
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "placement": asdict(config.placement),
            "max_restarts": config.max_restarts,
            "start_timeout_s": config.start_timeout_s,
            "stall_timeout_s": config.stall_timeout_s,
        }
        if twice := own.keys() & judge.engine.keys():
            names = ", ".join(sorted(twice))
            raise UserError(f"verifier.options.engine: {names} must be set in verifier itself")
        return typed(PolicyConfig, {**own, **judge.engine}, "verifier.options.engine")

    def num_actors(self, policy_model: str) -> int:
        """How many Ray actors it starts beside the policy's."""
        if self.members:
            return sum(member.num_actors(policy_model) for member in self.members)
        if isinstance(self.options, GenerativeOptions):
            engine = self.engine(policy_model)
            return 0 if engine is None else most_replicas(engine)
        return most_replicas(self.config)


def resolve(config: VerifierConfig, find: Callable[[str], str] = str, *, answer: Any = None) -> ResolvedVerifier:
    """The verifier of a configuration, its model and those of an ensemble's members where `find` finds them (no model
    stays none). Raises UserError for an unknown name, an unknown option or a bad value.

    `answer` says where answers stand in what it will judge, in the form of `data.answer`: a rule looks there, too,
    unless its own option says otherwise.
    """
    entry = _entry(config.name)
    options = _options(config, entry)
    if isinstance(options, AnswerOptions) and options.reads_answer and options.answer is None and not _usual(answer):
        config = replace(config, options={**config.options, "answer": answer})
        options = replace(options, answer=answer)
    config = replace(config, model=find(config.model) if config.model else "")
    if isinstance(options, PooledOptions) and options.engine is Engine.vllm:
        entry = replace(entry, host="orchestrator.verifier.pooling_host:PoolingHost")
    if not isinstance(options, Ensemble):
        return ResolvedVerifier(config=config, entry=entry, options=options)
    members = []
    for index, member in enumerate(options.members):
        with of_member(index):
            members.append(resolve(member, find, answer=answer))
    found = [asdict(member.config) for member in members]
    return ResolvedVerifier(
        config=replace(config, options={**config.options, "members": found}),
        entry=entry,
        options=options,
        members=tuple(members),
    )


@contextmanager
def of_member(index: int) -> Iterator[None]:
    """A UserError inside says which member of an ensemble it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"verifier.options.members[{index}]: {error}") from None


def _usual(answer: Any) -> bool:
    """Whether a rule looks there anyway."""
    return AnswerFormat.parse(answer) == AnswerFormat.parse(None)


def _entry(name: str) -> VerifierEntry:
    if name not in VERIFIERS:
        nearest = difflib.get_close_matches(name, VERIFIERS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"verifier: unknown name {name!r}, valid names are {', '.join(sorted(VERIFIERS))}{hint}")
    return VERIFIERS[name]


def _options(config: VerifierConfig, entry: VerifierEntry) -> Any:
    try:
        return typed(entry.options, config.options, "verifier.options")
    except UserError as error:
        valid = ", ".join(f.name for f in fields(entry.options)) or "none"
        message = str(error).replace(f"'{entry.options.__name__}'", config.name)
        raise UserError(f"{message}; options of {config.name}: {valid}") from None
