"""How values that travel in numbers get from process to process at little cost.

Python pickles a frozen dataclass with slots field by field, in Python, and Ray asks a Python function about every
object that it sends. As its fields in their order, in a parcel, a segment is sent and received six times as fast.
"""

import pickle
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")

_SETTERS: dict[type, list[Any]] = {}  # of the slots, which setting an attribute of a frozen value would refuse


def travels(cls: type[T]) -> type[T]:
    """Has a frozen dataclass with slots, of two fields or more, pickled as its fields in their order."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    values = attrgetter(*names)
    _SETTERS[cls] = [getattr(cls, name).__set__ for name in names]

    def __reduce__(self: T) -> tuple[Any, ...]:
        return _arrived, (cls, *values(self))

    cls.__reduce__ = __reduce__  # type: ignore[method-assign,assignment]
    return cls


def _arrived(cls: type[T], *values: Any) -> T:
    value = cls.__new__(cls)
    for put, field in zip(_SETTERS[cls], values, strict=True):
        put(value, field)
    return value


class Parcel(list[T]):
    """A list that is one object to Ray. It arrives as a plain list."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(list(self), protocol=pickle.HIGHEST_PROTOCOL),)
