"""What a configuration wants of a cluster: of `run`, `label`, `judge`, `serve` or `up`, whichever reads it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.config import read_yaml, resolve_path
from orchestrator.core.config import PolicyConfig, RayConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.pools.record import ray_of
from orchestrator.serving.config import ServeConfig
from orchestrator.typed import typed
from orchestrator.verifier.resolve import ResolvedVerifier, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A folder that the replicas of one part load."""

    key: str  # where it stands in the configuration
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    ray: RayConfig = field(default_factory=RayConfig)
    folders: tuple[ModelFolder, ...] = ()
    vllm: bool = True  # some replica runs on it
    results: str = "results"
    endpoint: tuple[str, int] | None = None  # host and port


def wanted_of(path: Path | None, overrides: Sequence[str] = (), address: str | None = None) -> Wanted:
    """Without a file, what every run wants. Raises UserError for a file that no command could read, and for a named
    pool that is not known here."""
    given: dict[str, Any] = {}
    if path is not None:
        read = OmegaConf.to_container(read_yaml(path, overrides), resolve=True)
        assert isinstance(read, dict)
        given = {str(key): value for key, value in read.items()}
    settings = given.get("ray") or {}
    if address is not None:
        settings = {**_mapping(settings, "ray"), "address": address}
    policy = None if "policy" not in given else typed(PolicyConfig, _mapping(given["policy"], "policy"), "policy")
    verifiers = []
    for key, value in _verifiers(given):
        verifiers.append((key, resolve(typed(VerifierConfig, _mapping(value, key), key), resolve_path)))
    folders = [] if policy is None else list(_of_policy(policy))
    for key, verifier in verifiers:
        folders += _of_verifier(key, verifier)
    served = typed(ServeConfig, given) if "alias" in given else None
    return Wanted(
        ray=ray_of(given.get("pool"), typed(RayConfig, _mapping(settings, "ray"), "ray")),
        folders=tuple(dict.fromkeys(folders)),
        vllm=policy is None or policy.engine == "vllm",
        results=str(given.get("results_dir", "results")),
        endpoint=None if served is None else (served.host, served.port),
    )


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{key}: wanted a mapping, got {value!r:.60}")
    return value


def _verifiers(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if given.get("verifier") is not None:
        yield "verifier", given["verifier"]
    for name, value in _mapping(given.get("verifiers", {}), "verifiers").items():  # what `judge` compares
        yield f"verifiers.{name}", value


def _of_policy(policy: PolicyConfig) -> Iterator[ModelFolder]:
    """Its tokenizer's alone where servers have the model."""
    for key in ("tokenizer",) if policy.urls else ("model", "tokenizer"):
        if (value := getattr(policy, key)) and is_folder(value):
            yield ModelFolder(key=f"policy.{key}", path=resolve_path(value))


def _of_verifier(key: str, verifier: ResolvedVerifier) -> Iterator[ModelFolder]:
    for index, member in enumerate(verifier.members):
        yield from _of_verifier(f"{key}.options.members[{index}]", member)
    if verifier.config.model and is_folder(verifier.config.model) and getattr(verifier.options, "url", None) is None:
        yield ModelFolder(key=f"{key}.model", path=verifier.config.model)


def is_folder(model: str) -> bool:
    """Whether it names a folder, here or elsewhere; else a model hub has it."""
    return Path(resolve_path(model)).exists() or model.startswith(("/", ".", "~")) or model.count("/") != 1
