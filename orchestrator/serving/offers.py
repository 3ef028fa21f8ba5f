"""What a server offers, for a page that asks before it shows a form: strategies, their parameters, limits."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from orchestrator.serving.catalog import Catalog, NamedStrategy
from orchestrator.serving.config import ServeConfig

_PLAIN = ("integer", "number", "boolean", "string")


def offers(catalog: Catalog, config: ServeConfig) -> dict[str, Any]:
    """As JSON. Parameters stand there with the values that a request has which gives none."""
    return {
        "alias": catalog.alias,
        "default_strategy": catalog.default_strategy,
        "strategies": [_strategy(named) for named in catalog.served],
        "limits": {"max_n": config.limits.max_n, "max_tokens": config.limits.max_tokens},
        "sampling": {"temperature": config.sampling.temperature, "max_tokens": config.sampling.max_tokens},
        "budget": dataclasses.asdict(config.request_budget),
        "efforts": list(config.efforts),
        "example": config.example,
        "keeps_traces": config.traces.keep > 0,
    }


def _strategy(named: NamedStrategy) -> dict[str, Any]:
    strategy = type(named.strategy)
    module = inspect.getmodule(strategy)
    about = inspect.cleandoc((module and module.__doc__) or "").partition("\n\n")[0].replace("\n", " ")
    hints, values = get_type_hints(strategy), named.params
    params: list[dict[str, Any]] = []
    for field in dataclasses.fields(strategy):
        schema = TypeAdapter(hints[field.name]).json_schema()
        costly = field.name in named.strategy.costly
        for param in _params(field.name, schema, schema.get("$defs", {}), values[field.name]):
            params.append({**param, "costly": costly})
    return {"name": named.name, "about": about, "params": params}


def _params(name: str, schema: Mapping[str, Any], known: Mapping[str, Any], value: Any) -> Iterator[dict[str, Any]]:
    """A field as what can be filled in: itself, or its parts as `field.part`."""
    kinds = [_resolved(kind, known) for kind in schema.get("anyOf", [schema])]
    shown = [kind for kind in kinds if kind.get("type") != "null"]
    nullable = len(shown) < len(kinds)
    [kind] = shown
    if "properties" in kind:
        for part, own in kind["properties"].items():
            yield from _params(f"{name}.{part}", own, known, value[part])
    elif "enum" in kind:
        yield {"name": name, "type": "choice", "choices": kind["enum"], "default": value, "nullable": nullable}
    else:
        assert kind["type"] in _PLAIN, f"{name}: a page has no field for {kind}"
        yield {"name": name, "type": kind["type"], "default": value, "nullable": nullable}


def _resolved(schema: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return known[reference.rpartition("/")[2]] if reference else schema
