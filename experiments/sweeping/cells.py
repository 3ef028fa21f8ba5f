"""A sweep's YAML to its cells: a run's configuration for each combination of the axes' choices."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import RunConfig, parse_override, read_yaml, typed_config
from experiments.running.check import Parts, checked
from experiments.sweeping.axes import Axis, Choice, parse_axes
from orchestrator.core.errors import UserError

_LONGEST_NAME = 200  # characters; a folder's name may have 255 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of a sweep. It has passed every check that needs no file."""

    choices: tuple[str, ...]  # their names, one for each axis
    config: RunConfig
    resolved_yaml: str
    parts: Parts

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def folder(self) -> Path:
        return Path(self.config.results_dir) / self.config.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All cells, in the order of the axes."""

    name: str
    folder: Path
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file. An override `sweep.KEY=[...]` sets an axis, any other a setting of all cells.

    Raises UserError for what can't work in some cell, whatever the files hold; neither models nor data need be there.
    """
    of_axes = [override for override in overrides if override.startswith("sweep.")]
    given = read_yaml(path, [override for override in overrides if override not in of_axes])
    if "sweep" not in given and not of_axes:
        raise UserError(f"config: {path} has no sweep; wanted axes under sweep, or headrace run {path}")
    swept: Any = OmegaConf.to_container(given)
    raw = swept.pop("sweep", None) or {}
    for override in of_axes:
        key, value = parse_override(override)
        raw[key.removeprefix("sweep.")] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    axes = parse_axes(raw)
    _check_overrides(axes, overrides)
    name, results_dir = swept.get("name"), swept.get("results_dir", "results")
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise UserError(f"config: {path}: name: wanted a plain folder name, got {name!r}")
    folder = Path(str(results_dir)) / name
    cells = tuple(
        _cell(OmegaConf.create(swept), folder, axes, choices)
        for choices in itertools.product(*(axis.choices for axis in axes))
    )
    _check_distinct(cells)
    return Sweep(name=name, folder=folder, axes=axes, cells=cells)


def _cell(given: DictConfig, folder: Path, axes: Sequence[Axis], choices: Sequence[Choice]) -> Cell:
    name = ",".join(f"{axis.key}={choice.name}" for axis, choice in zip(axes, choices, strict=True))
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"sweep: the cell {name[:60]}... has a name of {len(name)} characters, wanted at most {_LONGEST_NAME}: "
            "give long values short names, or settings that change together a group"
        )
    try:
        for choice in choices:
            for key, value in choice.settings.items():
                OmegaConf.update(given, key, copy.deepcopy(value), merge=False)
        given["name"], given["results_dir"] = name, str(folder)
        config, resolved_yaml = typed_config(RunConfig, given)
        parts = checked(config)
    except (UserError, OmegaConfBaseException, IndexError, TypeError) as error:
        raise UserError(f"sweep: cell {name}: {str(error).splitlines()[0]}") from None
    return Cell(
        choices=tuple(choice.name for choice in choices), config=config, resolved_yaml=resolved_yaml, parts=parts
    )


def _check_overrides(axes: Sequence[Axis], overrides: Sequence[str]) -> None:
    """Raises UserError for an override that an axis would undo."""
    for override in overrides:
        key = override.partition("=")[0]
        for axis in axes:
            if any(key == setting or key.startswith(f"{setting}.") for setting in axis.settings):
                raise UserError(
                    f"config: the override {override!r} sets what the sweep varies; wanted sweep.{axis.key}=[...]"
                )


def _check_distinct(cells: Sequence[Cell]) -> None:
    """Raises UserError for two names of one thing."""
    seen: dict[str, str] = {}
    for cell in cells:
        if (first := seen.setdefault(repr(replace(cell.config, name="any")), cell.name)) != cell.name:
            raise UserError(f"sweep: the cells {first} and {cell.name} are the same run; wanted each once")
