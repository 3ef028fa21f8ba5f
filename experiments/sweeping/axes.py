"""The axes of a sweep: which settings take which values, and what each choice is called.

An axis is a dotted setting of a run with a list of values, or with named values. Under any other name it is a group:
named choices, each of which sets several settings together.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config import RunConfig
from orchestrator.core.errors import UserError

_SETTINGS = tuple(field.name for field in dataclasses.fields(RunConfig))
_FIXED = ("name", "results_dir", "ray", "pool")  # what all cells have in common
_LISTS = ("strategies", "seeds")  # settings whose value is itself a list
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One value of an axis, by dotted settings."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """`key` is the dotted setting, or the name of a group."""

    key: str
    choices: tuple[Choice, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """All that some choice sets."""
        return tuple(dict.fromkeys(key for choice in self.choices for key in choice.settings))


def parse_axes(given: Any) -> tuple[Axis, ...]:
    """The axes, in their order: the last one changes fastest. Raises UserError."""
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"sweep: wanted axes, such as sampling.temperature: [0.6, 1.0], got {given!r:.60}")
    axes = tuple(_axis(str(key), values) for key, values in given.items())
    _check_apart(axes)
    return axes


def _axis(key: str, values: Any) -> Axis:
    if key.partition(".")[0] in _SETTINGS:
        _check_setting(key, f"sweep.{key}")
        named = values if isinstance(values, Mapping) else dict(_named(key, values))
        choices = [Choice(name=str(name), settings={key: value}) for name, value in named.items()]
        if nested := [choice for choice in choices if isinstance(choice.settings[key], list) and key not in _LISTS]:
            raise UserError(
                f"sweep.{key}.{nested[0].name}: wanted one value, got a list; the values of a setting stand under its "
                f"dotted key, as {key}.{nested[0].name}: [...]"
            )
    else:
        choices = _group(key, values)
    if not choices:
        raise UserError(f"sweep.{key}: wanted at least one value, got none")
    for choice in choices:
        if not _NAME.fullmatch(choice.name):
            raise UserError(
                f"sweep.{key}: a choice names a folder: wanted letters, digits and . _ + -, got {choice.name!r}"
            )
    return Axis(key=key, choices=tuple(choices))


def _named(key: str, values: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, list):
        raise UserError(f"sweep.{key}: wanted a list of values, or names with a value each, got {values!r:.60}")
    seen: set[str] = set()
    for value in values:
        name = _name_of(value)
        if name is None or name in seen:
            why = f"{value!r:.60} has no name of its own" if name is None else f"two values would be called {name}"
            raise UserError(f"sweep.{key}: {why}; wanted names, as {key}: {{first: ..., second: ...}}")
        seen.add(name)
        yield name, value


def _group(key: str, values: Any) -> list[Choice]:
    near = difflib.get_close_matches(key.partition(".")[0], _SETTINGS, n=1)
    hint = f"; did you mean {'.'.join([near[0], *key.split('.')[1:]])}?" if near else ""
    if not isinstance(values, Mapping):
        raise UserError(
            f"sweep.{key}: no setting of a run is called so{hint}; a group wants names with settings each, as "
            f"{key}: {{small: {{policy.model: ...}}}}"
        )
    choices = []
    for name, settings in values.items():
        if not isinstance(settings, Mapping) or not settings:
            raise UserError(f"sweep.{key}.{name}: wanted settings, as policy.model: ..., got {settings!r:.60}{hint}")
        for setting in settings:
            _check_setting(str(setting), f"sweep.{key}.{name}")
        choices.append(Choice(name=str(name), settings={str(k): value for k, value in settings.items()}))
    return choices


def _check_setting(key: str, where: str) -> None:
    first = key.partition(".")[0]
    if first not in _SETTINGS:
        near = difflib.get_close_matches(first, _SETTINGS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{where}: got {key}, wanted a setting of a run: {', '.join(_SETTINGS)}{hint}")
    if first in _FIXED:
        raise UserError(f"{where}: {first} is the same for all cells of a sweep; set it beside sweep")


def _check_apart(axes: Sequence[Axis]) -> None:
    """Raises UserError where a later axis would undo what an earlier one sets."""
    for index, axis in enumerate(axes):
        for setting in axis.settings:
            for earlier in axes[:index]:
                for other in earlier.settings:
                    if other == setting or other.startswith(f"{setting}."):
                        raise UserError(
                            f"sweep.{axis.key}: sets {setting}, and so overrides {other} of sweep.{earlier.key}; "
                            "wanted each setting in one axis, and a whole before its parts"
                        )


def _name_of(value: Any) -> str | None:
    """What a value is called in the name of a cell; None: nothing short says what it is."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        text = str(value)
        return re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(text).name if "/" in text else text).strip("-.") or None
    if isinstance(value, list):
        names = [_name_of(item) for item in value]
        return "-".join(filter(None, names)) if names and None not in names else None
    if isinstance(value, Mapping):
        if "name" in value:
            return _name_of(value["name"])
        if len(value) == 1:
            [(key, item)] = value.items()
            name = _name_of(item)
            return None if name is None else f"{key}-{name}"
    return None
