"""What a user gave in YAML, as the typed value that it is meant for. One set of checks for all configurations.

YAML says some things that nobody means: `no` is false, `"\\boxed"` begins with a backspace, `.nan` is a number. They
are refused here, naming the key, before anything is loaded.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from orchestrator.core.errors import UserError

C = TypeVar("C")

_MOST = 2**63 - 1  # what a column of integers holds
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\t(?=ext|imes|heta|frac|riangle)|\r(?=ight|angle)")


def typed(schema: type[C], given: Mapping[str, Any] | DictConfig, owner: str = "") -> C:
    """An instance of the dataclass with the given values. `owner` is the dotted key of what is given, or a name for it.

    Raises UserError that names the key, for what the schema does not take and for what nobody means.
    """
    return typed_and_yaml(schema, given, owner)[0]


def typed_and_yaml(schema: type[C], given: Mapping[str, Any] | DictConfig, owner: str = "") -> tuple[C, str]:
    """The instance, and the YAML of all its values, defaults included."""
    try:
        config = given if isinstance(given, DictConfig) else OmegaConf.create(dict(given))
        plain = OmegaConf.to_container(config, resolve=True)
        _check_shape(plain, schema, owner)
        _check_values(plain, owner)
        merged = OmegaConf.merge(OmegaConf.structured(schema), config)
        _check_texts(config, merged, owner)
        return cast(C, OmegaConf.to_object(merged)), OmegaConf.to_yaml(merged, resolve=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{_key(owner, error.full_key)} is missing") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{_key(owner, error.full_key)}: {str(error).splitlines()[0]}") from None
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # of a class that takes no such container
        raise UserError(f"{owner}: {error}" if owner else str(error)) from None


def _key(owner: str, key: Any) -> str:
    return ": ".join(filter(None, (owner, str(key or "")))) or "the configuration"


def _check_shape(value: Any, kind: Any, key: str) -> None:
    """A mapping where a mapping is wanted, a list where a list is; OmegaConf would not name the key."""
    kinds = [k for k in get_args(kind) if k is not NoneType] if get_origin(kind) in (Union, UnionType) else [kind]
    wanted = kinds[0] if len(kinds) == 1 else Any
    if value is None or wanted is Any:
        return
    arguments = get_args(wanted)
    if is_dataclass(wanted) or get_origin(wanted) is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{key}: wanted a mapping, got {value!r:.60}")
        hints = get_type_hints(wanted) if is_dataclass(wanted) else {}
        for name, item in value.items():
            _check_shape(
                item, hints.get(name, arguments[1] if arguments else Any), f"{key}.{name}" if key else str(name)
            )
    elif get_origin(wanted) is list:
        if not isinstance(value, list):
            raise UserError(f"{key}: wanted a list, got {value!r:.60}")
        for index, item in enumerate(value):
            _check_shape(item, arguments[0], f"{key}[{index}]")
    elif isinstance(value, Mapping | list):
        raise UserError(f"{key}: wanted one value, got {value!r:.60}")


def _check_values(value: Any, key: str) -> None:
    for name, leaf in _leaves(value, key):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise UserError(f"{name}: wanted a finite number, got {leaf}")
        if isinstance(leaf, int) and not -_MOST <= leaf <= _MOST:
            raise UserError(f"{name}: wanted a whole number of at most 64 bits, got {leaf}")
        if name.endswith("seed") and isinstance(leaf, int) and leaf < 0:
            raise UserError(f"{name}: wanted a seed >= 0, got {leaf}")
        if isinstance(leaf, str) and (found := _CONTROL.search(leaf)):
            raise UserError(
                f"{name}: holds the control character {found[0]!r}; YAML reads backslashes in double quotes, so write "
                f"LaTeX in single quotes: got {leaf!r:.60}"
            )


def _check_texts(given: Any, merged: Any, key: str) -> None:
    """A truth value or a number with a point that became text was not meant as either."""
    if isinstance(given, Mapping) and isinstance(merged, Mapping):
        for name in given:
            if name in merged and not OmegaConf.is_missing(merged, name) and not OmegaConf.is_missing(given, name):
                _check_texts(given[name], merged[name], f"{key}.{name}" if key else str(name))
    elif isinstance(merged, str) and isinstance(given, bool | float):
        raise UserError(
            f"{key}: wanted text, got {given!r}: YAML reads yes, no, on, off and 1e3 as values; put the text in quotes"
        )


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{key}[{index}]")
    else:
        yield key, value
