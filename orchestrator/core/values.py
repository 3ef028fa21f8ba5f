"""Frozen values that are made and sent in numbers, some ten of them for each step of a search.

A frozen dataclass sets its fields through `object.__setattr__`, and Python pickles it field by field, in Python. Ray
asks a Python function about every object that it sends. Here a value is made of its fields in order, four times as
fast, and pickled as these. A `Parcel` of values is one object to Ray.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Slots:
    """Of a class, in the order of its fields."""

    values: Callable[[Any], tuple[Any, ...]]
    setters: dict[str, Any]  # of the slots themselves: setting an attribute of a frozen value is refused


_SLOTS: dict[type, _Slots] = {}


def numerous(cls: type[T]) -> type[T]:
    """Has a frozen dataclass with slots, of two fields or more, pickled as its fields. `made` and `changed` know it."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    slots = _SLOTS[cls] = _Slots(attrgetter(*names), {name: getattr(cls, name).__set__ for name in names})

    def __reduce__(self: T) -> tuple[Any, ...]:
        return made, (cls, *slots.values(self))

    cls.__reduce__ = __reduce__  # type: ignore[method-assign,assignment]
    return cls


def made(cls: type[T], *values: Any) -> T:
    """A value of all its fields in order. Nothing is checked."""
    value = cls.__new__(cls)
    for put, field in zip(_SLOTS[cls].setters.values(), values, strict=True):
        put(value, field)
    return value


def changed(value: T, **fields: Any) -> T:
    """As `dataclasses.replace`. Nothing is checked."""
    cls = type(value)
    slots = _SLOTS[cls]
    other = made(cls, *slots.values(value))
    for name, field in fields.items():
        slots.setters[name](other, field)
    return other


class Parcel(list[T]):
    """A list that is one object to Ray. It arrives as a plain list."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(list(self), protocol=pickle.HIGHEST_PROTOCOL),)
