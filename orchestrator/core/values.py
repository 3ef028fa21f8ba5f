"""Frozen values that are made and sent in numbers, some ten of them for each step of a search.

A frozen dataclass sets its fields through `object.__setattr__`, and Python pickles it field by field, in Python. Ray
asks a Python function about every object that it sends. Here a value is made of its fields in order, eight times as
fast, and pickled as these: it is filled while it belongs to an open class with the same slots, and then frozen by its
class. A `Parcel` of values is one object to Ray.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Form:
    """Of a class, with its fields in order."""

    values: Callable[[Any], tuple[Any, ...]]
    open: type  # the same slots, which can be set


_FORMS: dict[type, _Form] = {}


def numerous(cls: type[T]) -> type[T]:
    """Has a frozen dataclass with slots, of two fields or more, pickled as its fields. `made` and `changed` know it."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    form = _FORMS[cls] = _Form(attrgetter(*names), make_dataclass(cls.__name__, names, eq=False, slots=True))

    def __reduce__(self: T) -> tuple[Any, ...]:
        return made, (cls, *form.values(self))

    cls.__reduce__ = __reduce__  # type: ignore[method-assign,assignment]
    return cls


def made(cls: type[T], *values: Any) -> T:
    """A value of all its fields in order. Nothing is checked."""
    value: Any = _FORMS[cls].open(*values)
    value.__class__ = cls
    return value  # type: ignore[no-any-return]


def changed(value: T, **fields: Any) -> T:
    """As `dataclasses.replace`. Nothing is checked."""
    cls = type(value)
    form = _FORMS[cls]
    other: Any = form.open(*form.values(value))
    for name, field in fields.items():
        setattr(other, name, field)
    other.__class__ = cls
    return other  # type: ignore[no-any-return]


class Parcel(list[T]):
    """A list that is one object to Ray. It arrives as a plain list."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(list(self), protocol=pickle.HIGHEST_PROTOCOL),)
