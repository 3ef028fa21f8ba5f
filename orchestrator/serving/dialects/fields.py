"""What the requests of all dialects have in common, and how a body is read: strictly, and with a name in each refusal.

`null` is as good as a field that is not there.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import from_json

from orchestrator.serving.errors import ApiError, invalid

LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""They ask for nothing."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "service_tier": ("auto", "default"),
}
"""Parameters that a search has no use for, with the values that ask for nothing."""
_MOST_STOPS, _MOST_STOP_CHARS = 4, 1000

R = TypeVar("R", bound=BaseModel)


def _stops(given: Any) -> Any:
    """A list of texts at which an answer ends."""
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("wanted a string or a list of strings")
    if len(stops) > _MOST_STOPS:
        raise ValueError(f"wanted at most {_MOST_STOPS} strings, got {len(stops)}")
    if not all(0 < len(stop) <= _MOST_STOP_CHARS for stop in stops):
        raise ValueError(f"wanted strings of 1 to {_MOST_STOP_CHARS} characters")
    return stops


_STOP = {"type": "string", "minLength": 1, "maxLength": _MOST_STOP_CHARS}
Stops = Annotated[
    list[str],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": _MOST_STOPS}]}),
]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # never sent


class CommonRequest(BaseModel):
    """What is honoured in each dialect, and `headrace`: the strategy's name and parameters, and the search's caps."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    thinking_token_budget: int | None = Field(default=None, ge=1)
    headrace: dict[str, Any] | None = None


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError."""
    try:
        given = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise invalid(f"the body must be a JSON object, got {type(given).__name__}")
    return given


def read_request(
    cls: type[R],
    given: Mapping[str, Any],
    *,
    neutral: Mapping[str, tuple[Any, ...]],
    hints: Mapping[str, str],
) -> R:
    """The request without labels, and without what asks for nothing. Raises ApiError for what asks for something that
    is not `neutral`, with a hint where there is one, and for what the request's class does not take."""
    given = {name: value for name, value in given.items() if value is not None and name not in LABELS}
    for name, values in neutral.items():
        if name not in given:
            continue
        value = given.pop(name)
        if not any(_same(value, wanted) for wanted in values):
            why = hints.get(name, "leave it out")
            raise invalid(f"{name}: {value!r:.100} is not supported: {why}", param=name, code="unsupported_parameter")
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise _as_invalid(error, [*cls.model_fields, *neutral]) from None


def _same(value: Any, wanted: Any) -> bool:
    """As JSON has it: a number is no boolean."""
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _as_invalid(error: ValidationError, known: list[str]) -> ApiError:
    """The first complaint of several."""
    first = error.errors(include_url=False)[0]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")[:200]
    match first["type"]:
        case "missing":
            return invalid(f"{param} is missing", param=param, code="missing_required_parameter")
        case "extra_forbidden":
            near = difflib.get_close_matches(param, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return invalid(f"{param}: unknown parameter{hint}", param=param, code="unknown_parameter")
        case "value_error":
            return invalid(f"{param}: {first['ctx']['error']}", param=param)
        case _:
            reason = first["msg"][0].lower() + first["msg"][1:]
            return invalid(f"{param}: {reason}, got {first['input']!r:.100}", param=param)
