"""The models on offer: the alias, and `alias@strategy` for every strategy that this endpoint can run.

Parameters come from strangers: their types are checked strictly and nothing in them is interpreted.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from orchestrator.core.errors import UserError
from orchestrator.core.protocols import Strategy
from orchestrator.serving.errors import ApiError, invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedStrategy:
    name: str
    strategy: Strategy

    @property
    def params(self) -> dict[str, Any]:
        """Its fields, as JSON values."""
        params: dict[str, Any] = to_jsonable_python(dataclasses.asdict(self.strategy))
        return params


class Catalog:
    """Makes strategies from what requests say."""

    def __init__(
        self,
        *,
        alias: str,
        default_strategy: str,
        strategies: Mapping[str, type[Strategy]],
        params: Mapping[str, Mapping[str, Any]],
        has_verifier: bool,
        scores_steps: bool = True,
        tells_tokens: bool = True,
        max_n: int,
    ) -> None:
        """`params`: a strategy's parameters where a request gives none. Raises UserError where they can't be."""
        self.alias, self.default_strategy = alias, default_strategy
        self._classes = strategies
        self._params = params
        self._has_verifier, self._scores_steps = has_verifier, scores_steps
        self.tells_tokens = tells_tokens
        self._max_n = max_n
        for name in params:
            if name not in strategies:
                raise UserError(f"strategies: got {name!r}, wanted one of {_listed(name, strategies)}")
        try:
            made = {name: self._made(name, {}, f"strategies.{name}.") for name in strategies}
        except ApiError as error:
            raise UserError(error.message) from None
        self._served = [name for name, strategy in made.items() if self._missing(strategy) is None]
        if default_strategy not in self._served:
            missing = self._missing(made[default_strategy]) if default_strategy in made else None
            why = f" ({default_strategy} needs {missing})" if missing else ""
            raise UserError(
                f"default_strategy: got {default_strategy!r}, wanted one of "
                f"{_listed(default_strategy, self._served)}{why}"
            )

    @property
    def models(self) -> list[str]:
        return [self.alias, *(f"{self.alias}@{name}" for name in self._served)]

    @property
    def served(self) -> list[NamedStrategy]:
        """Every strategy on offer, with the parameters of a request that gives none."""
        return [NamedStrategy(name=name, strategy=self._made(name, {}, "")) for name in self._served]

    def resolve(self, model: str, extra: Mapping[str, Any]) -> NamedStrategy:
        """The strategy that a request asks for. Raises ApiError."""
        if model not in self.models:
            raise ApiError(
                404,
                f"model: got {model[:100]!r}, wanted one of {_listed(model, self.models)}",
                param="model",
                code="model_not_found",
            )
        named = model.removeprefix(self.alias).removeprefix("@") or None
        asked = extra.get("strategy")
        param = "headrace.strategy"
        if asked is not None and asked not in self._served:
            raise invalid(
                f"{param}: got {_shown(asked)}, wanted one of {_listed(str(asked), self._served)}", param=param
            )
        if named is not None and asked is not None and named != asked:
            raise invalid(f"{param}: got {asked!r}, but the model {model!r} names another", param=param)
        name = named or asked or self.default_strategy
        strategy = self._made(name, {key: value for key, value in extra.items() if key != "strategy"}, "headrace.")
        if missing := self._missing(strategy):
            raise invalid(f"{name} with these parameters needs {missing}", param="headrace")
        return NamedStrategy(name=name, strategy=strategy)

    def _missing(self, strategy: Strategy) -> str | None:
        """What the strategy would need and this server does not have."""
        if not self._has_verifier and strategy.needs_verifier:
            return "a verifier, and this server has none"
        if not self._scores_steps and strategy.needs_step_scores:
            return "a verifier that scores steps, and this server's judges whole solutions only"
        if not self.tells_tokens and strategy.needs_tokens:
            return "a policy that tells token ids, and this server's returns text only"
        return None

    def _made(self, name: str, given: Mapping[str, Any], prefix: str) -> Strategy:
        """The strategy with the configured parameters under the given ones. `prefix` is where they were given."""
        cls = self._classes[name]
        fields = [field.name for field in dataclasses.fields(cls)]
        params = {**self._params.get(name, {}), **given}
        for key in params:
            if key not in fields:
                param = prefix + key[:100]
                raise invalid(f"{param}: {name} has no such parameter, its own are {_listed(key, fields)}", param=param)
        hints = get_type_hints(cls)
        try:
            strategy = cls(**{key: typed_value(prefix + key, hints[key], value) for key, value in params.items()})
        except ValueError as error:
            raise invalid(str(error), param=_blamed(str(error), name, fields)) from None
        for field in strategy.costly:
            count = getattr(strategy, field)
            if count is not None and count > self._max_n:
                param = f"{prefix}{field}"
                raise invalid(f"{param}: must be <= limits.max_n={self._max_n}, got {count}", param=param)
        return strategy


def typed_value(param: str, hint: Any, value: Any) -> Any:
    """The value as the field's type, by JSON's strict rules: no string is a number, no number a string."""
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True, extra="forbid")
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise invalid(f"{param}: {reason[0].lower()}{reason[1:]}, got {_shown(value)}", param=param) from None


def _blamed(message: str, name: str, fields: Iterable[str]) -> str:
    """The parameter that a strategy's own complaint (`name: field must ...`) is about."""
    match = re.match(rf"{name}: (\w+)", message)
    return f"headrace.{match[1]}" if match and match[1] in fields else "headrace"


def _listed(name: str, names: Iterable[str]) -> str:
    """The valid names, and the nearest one."""
    near = difflib.get_close_matches(name[:100], list(names), n=1)
    return (", ".join(names) or "none") + (f"; did you mean {near[0]}?" if near else "")


def _shown(value: Any) -> str:
    return repr(value)[:100]
