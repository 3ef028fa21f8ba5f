"""YAML to typed configuration. An unknown key, a wrong type or a bad value is a UserError that names the key."""

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml  # type: ignore[import-untyped]
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.data.datasets import DataConfig, Dataset, load_dataset
from experiments.data.graders import check_grader
from experiments.data.published import RecordsConfig
from experiments.data.sets import data_config
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Sampling, Strategy
from orchestrator.typed import typed, typed_and_yaml
from strategies import strategy_class

C = TypeVar("C")

PROJECT_ROOT = Path(__file__).resolve().parent.parent

# Keys that change how fast a run goes and no row of it: a run may be resumed with others.
FREE_KEYS = (
    "ray",
    "pool",
    "drivers",
    "results_dir",
    "problems_in_flight",
    "trees",
    "policy.replicas",
    "policy.min_replicas",
    "policy.max_replicas",
    "policy.placement",
    "policy.max_num_seqs",
    "policy.kv_cache_gib",
    "policy.gpu_memory_utilization",
    "policy.num_gpus",
    "policy.spare_seqs",
    "policy.urls",
    "policy.api_key_env",
    "policy.request_timeout_s",
    "policy.max_restarts",
    "policy.start_timeout_s",
    "policy.stall_timeout_s",
    "verifier.replicas",
    "verifier.min_replicas",
    "verifier.max_replicas",
    "verifier.placement",
    "verifier.slots",
    "verifier.host_slots",
    "verifier.batch_tokens",
    "verifier.max_restarts",
    "verifier.start_timeout_s",
    "verifier.stall_timeout_s",
)


@dataclass(frozen=True, kw_only=True)
class TrustConfig:
    """Labelled problems, apart from those of the run, with n samples each."""

    data: DataConfig = MISSING
    n: int = 8

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"trust: n must be >= 2, got {self.n}")


@dataclass(frozen=True, kw_only=True)
class TreesConfig:
    """Whether and how far the search trees of a run are kept."""

    max_bytes: int = 1_073_741_824  # of all of them on disk; 0: none is kept

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ValueError(f"trees: max_bytes must be >= 0, got {self.max_bytes}")


@dataclass(frozen=True, kw_only=True)
class SearchesConfig:
    """Which searches make up a results folder."""

    name: str | None = None
    strategies: list[dict[str, Any]] = MISSING
    seeds: list[int] = field(default_factory=lambda: [0])
    problems_in_flight: int = 32
    problem_timeout_s: float = 600.0
    results_dir: str = "results"

    def __post_init__(self) -> None:
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise ValueError(f"name: wanted a plain folder name, got {self.name!r}")
        for name in ("seeds", "strategies"):
            if not getattr(self, name):
                raise ValueError(f"{name}: wanted at least one, got none")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds: must be >= 0, got {min(self.seeds)}")
        if self.problems_in_flight < 1:
            raise ValueError(f"problems_in_flight: must be >= 1, got {self.problems_in_flight}")
        if self.problem_timeout_s <= 0:
            raise ValueError(f"problem_timeout_s: must be > 0, got {self.problem_timeout_s}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(SearchesConfig):
    """One experiment run: every strategy on every problem under every seed."""

    name: str = MISSING
    data: DataConfig = MISSING
    policy: PolicyConfig = MISSING
    verifier: VerifierConfig | None = None
    sampling: Sampling = field(default_factory=Sampling)
    steps: StepConfig = field(default_factory=StepConfig)
    budget: Budget = field(default_factory=Budget)  # of each search
    run_budget: Budget = field(default_factory=Budget)  # of all searches of one `headrace run` together
    trees: TreesConfig = field(default_factory=TreesConfig)
    trust: TrustConfig | None = None  # when set, the verifier is tried first; if it fails, searches choose by a vote
    speculation: int = 0  # steps that a step search writes on while the verifier reads, on spare capacity; 0: none
    ray: RayConfig = field(default_factory=RayConfig)
    pool: str | None = None  # a named pool (`headrace up`) whose policy and verifier are used; None: started for this
    drivers: int = 1  # processes that run the searches; 1: this one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drivers < 1:
            raise ValueError(f"drivers: must be >= 1, got {self.drivers}")
        if self.speculation < 0:
            raise ValueError(f"speculation: must be >= 0, got {self.speculation}")


@dataclass(frozen=True, kw_only=True)
class NamedStrategy:
    name: str
    strategy: Strategy


def load_yaml(path: Path, schema: type[C], overrides: Sequence[str] = ()) -> tuple[C, str]:
    """The typed configuration in a YAML file, `key=value` overrides on top, and its resolved YAML."""
    given = read_yaml(path, overrides)
    try:
        return typed_config(schema, given)
    except UserError as error:
        raise UserError(f"config: {path}: {error}") from None


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """What a YAML file says, `key=value` overrides on top. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"config: {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(f"config: {path} is not UTF-8: {error}") from None
    except OSError as error:
        raise UserError(f"config: can't read {path}: {error.strerror}") from None
    try:
        given = OmegaConf.create(text)
    except yaml.YAMLError as error:
        raise UserError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from None
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"config: {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(given, DictConfig):
        raise UserError(f"config: {path} must be a YAML mapping, got {type(given).__name__}")
    for override in overrides:
        _apply(given, override)
    return given


def typed_config(schema: type[C], given: DictConfig) -> tuple[C, str]:
    """The instance, each data set in it of its own class, and the YAML of all its values. Raises UserError."""
    return typed_and_yaml(schema, _with_data(schema, given))


def _with_data(schema: type[Any], given: DictConfig, owner: str = "") -> DictConfig:
    """The same, with the settings of each data set as an instance of what its name says."""
    made = copy.deepcopy(given)
    for name, hint in get_type_hints(schema).items():
        kind = next((kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)), None)
        part = None if kind is None or OmegaConf.is_missing(given, name) else given.get(name)
        if not isinstance(kind, type) or not isinstance(part, DictConfig):
            continue
        key = f"{owner}.{name}" if owner else name
        if kind is DataConfig:
            settings = cast(dict[str, Any], OmegaConf.to_container(part, resolve=True))
            made[name] = OmegaConf.structured(data_config(settings, key))
        else:
            made[name] = _with_data(kind, part, key)
    return made


def _apply(given: DictConfig, override: str) -> None:
    """Sets `key=value`; `strategies.0.n=4` reaches into lists."""
    key, value = parse_override(override)
    try:
        OmegaConf.update(given, key, value)
    except (IndexError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config: the override {override!r} does not fit: {str(error).splitlines()[0]}") from None


def parse_override(override: str) -> tuple[str, Any]:
    """The key and the value, which is read as YAML. Raises UserError."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"config: an override must be key=value, got {override!r}")
    try:
        return key, OmegaConf.create(f"value: {value}").value
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config: the override {override!r} does not fit: {str(error).splitlines()[0]}") from None


def make_strategies(entries: Sequence[Mapping[str, Any]]) -> list[NamedStrategy]:
    """Strategies from their YAML entries. A list of values for a field stands for one strategy each."""
    made = []
    for index, entry in enumerate(entries):
        if "name" not in entry:
            raise UserError(f"strategies[{index}]: name is missing, got keys {', '.join(map(str, entry)) or 'none'}")
        if not isinstance(entry["name"], str):
            raise UserError(f"strategies[{index}].name: wanted one name, got {entry['name']!r}")
        name, swept = entry["name"], {k: v if isinstance(v, list) else [v] for k, v in entry.items() if k != "name"}
        if empty := [key for key, values in swept.items() if not values]:
            raise UserError(f"strategies[{index}].{empty[0]}: wanted a value or a list of some, got []")
        made += [
            NamedStrategy(name=name, strategy=make_strategy(name, dict(zip(swept, values, strict=True))))
            for values in itertools.product(*swept.values())
        ]
    return made


def make_strategy(name: str, params: Mapping[str, Any]) -> Strategy:
    """One strategy from its registered name and fields. Raises UserError."""
    try:
        cls = strategy_class(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        return typed(cls, params)
    except UserError as error:
        message = str(error).replace(f"'{cls.__name__}'", name)
        fields = [field.name for field in dataclasses.fields(cls)]
        if message.startswith(f"{name}: "):  # its own complaint
            raise UserError(message) from None
        raise UserError(f"{name}: {message}; parameters: {', '.join(fields) or 'none'}") from None


def load_data(config: DataConfig) -> Dataset:
    """The data set, its file found as `resolve_path` does. Raises UserError, also where its answers can't be graded."""
    check_grader(config)
    if isinstance(config, RecordsConfig) and config.path is not None:
        config = dataclasses.replace(config, path=resolve_path(config.path))
    return load_dataset(config)


def resolve_path(path: str) -> str:
    """The absolute path of what is there, seen from here or else from the project's root, or else as it is."""
    for candidate in (Path(path), PROJECT_ROOT / path):
        if candidate.exists():
            return str(candidate.absolute())
    return path
