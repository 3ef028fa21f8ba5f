"""Whether a results folder was made by the same configuration, and so may be resumed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from orchestrator.core.errors import UserError


def parse_config(text: str, what: str) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.create(text))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"results: {what} is not readable YAML: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"results: {what} must be a YAML mapping, got {type(config).__name__}")
    return {str(key): value for key, value in config.items()}


def check_same_run(folder: Path, config_path: Path, wanted: dict[str, Any], free_keys: Sequence[str]) -> None:
    try:
        text = config_path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"results: {config_path} is not UTF-8: {error}") from error
    found_flat = dict(flat(parse_config(text, str(config_path))))
    wanted_flat = dict(flat(wanted))
    differing = [
        f"{key} (there {found_flat.get(key, 'unset')!r}, now {wanted_flat.get(key, 'unset')!r})"
        for key in dict.fromkeys([*found_flat, *wanted_flat])
        if found_flat.get(key, _UNSET) != wanted_flat.get(key, _UNSET)
        and not any(key == free or key.startswith((f"{free}.", f"{free}[")) for free in free_keys)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"results: {folder} belongs to another run, which differs in {', '.join(differing[:3])}{more}; "
            "wanted the same configuration, another folder, or --overwrite"
        )


_UNSET = object()


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts and lists as (`a.b[0].c`, value)."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(config, list) and config:
        for index, value in enumerate(config):
            yield from flat(value, f"{prefix}[{index}]")
    else:
        yield prefix, config
