"""Fields of a record, checked. Pure: every function raises ValueError that says what, got and wanted."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")


def parse(line: bytes) -> dict[str, Any]:
    """The record in a line."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start}: {error.reason})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("is not JSON that can be read: it is nested too deeply") from None
    return checked(record)


def checked(record: Any) -> dict[str, Any]:
    """What JSON holds, where it is a record."""
    if not isinstance(record, dict):
        raise ValueError(f"must be a JSON object, got {type(record).__name__}")
    _check_unicode(record)
    return record


def text(record: Mapping[str, Any], name: str) -> str:
    """A text, or a number as text; not empty."""
    value = _value(record, name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"has a bad {name!r}: wanted text or a number, got {_shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"has a bad {name!r}: wanted text or a finite number, got {value}")
    if not str(value).strip():
        raise ValueError(f"has a bad {name!r}: wanted text or a number, got nothing but space")
    return str(value)


def reference(record: Mapping[str, Any], name: str) -> str:
    """A reference answer as text. A list is a list of values; true and false are words."""
    value = _value(record, name)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        if not value:
            raise ValueError(f"has a bad {name!r}: wanted at least one value, got []")
        return ", ".join(text({f"{name}[{index}]": item}, f"{name}[{index}]") for index, item in enumerate(value))
    return text(record, name)


def texts(record: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts; at least one."""
    value = _value(record, name)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError(f"has a bad {name!r}: wanted a list of texts, got {_shown(value)}")
    return value


def number(record: Mapping[str, Any], name: str) -> float:
    """A number, alone or in a text with one number: `Level 4` is 4."""
    value = _value(record, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = [float(value)]
    else:
        found = [float(match) for match in _NUMBER.findall(value)] if isinstance(value, str) else []
    if len(found) != 1 or not math.isfinite(found[0]):
        raise ValueError(f"has a bad {name!r}: wanted a number or a text with one number, got {_shown(value)}")
    return found[0]


def _value(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise ValueError(f"has no field {name!r}, it has {', '.join(record) or 'none'}")
    if record[name] is None:
        raise ValueError(f"has a bad {name!r}: wanted a value, got null")
    return record[name]


def _check_unicode(value: Any) -> None:
    """Half of a surrogate pair is no character: no file and no tokenizer takes it."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"holds a lone surrogate ({value[error.start]!r}), which is no character") from None
    elif isinstance(value, list):
        for item in value:
            _check_unicode(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_unicode(key)
            _check_unicode(item)


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
