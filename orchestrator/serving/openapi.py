"""The description of the routes: `/openapi.json`, which `/docs` shows. Requests are described as they are checked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from orchestrator.serving.dialects.contract import Dialect
from orchestrator.serving.dialects.fields import LABELS

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_LOOKED_UP = {  # what is read by its address, and why it may not be there
    "/v1/models": None,
    "/v1/models/{name}": "no such model",
    "/v1/headrace/strategies": None,
    "/v1/headrace/traces/{request_id}": "no such trace, or no longer",
}
_STATUSES = {
    "400": "the request is wrong, or the prompt does not fit the context",
    "401": "no API key, or none of this server's",
    "403": "the API key may not ask for that",
    "404": "no such model",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the body is not JSON by its content type",
    "429": "as much as may be is running and waiting already, or the API key has used up what it may",
    "500": "a fault of the server",
    "503": "the server is starting or stopping, or its workers are unavailable",
    "504": "no answer in time",
}


def describe(app: FastAPI, dialects: Iterable[Dialect], models: Sequence[str]) -> dict[str, Any]:
    """The description of the app. Its routes read their bodies themselves, so they are described here."""
    described: dict[str, Any] = get_openapi(title="Headrace", version="1", routes=app.routes)
    components = described.setdefault("components", {}).setdefault("schemas", {})
    components["Error"] = _ERROR
    for path, missing in _LOOKED_UP.items():
        responses = described["paths"][path]["get"]["responses"]
        responses.pop("422", None)  # FastAPI's own, which no route here answers
        responses["401"] = _error(_STATUSES["401"])
        if missing is not None:
            responses["404"] = _error(missing)
    for dialect in dialects:
        schema = _schema(dialect, models)
        components |= schema.pop("$defs", {})
        components[dialect.request.__name__] = schema
        described["paths"][dialect.path]["post"] |= {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ref(dialect.request.__name__)}},
            },
            "responses": {
                "200": {
                    "description": "the answer, plain or streamed",
                    "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
                },
                **{status: _error(why) for status, why in _STATUSES.items()},
            },
        }
    return described


def _schema(dialect: Dialect, models: Sequence[str]) -> dict[str, Any]:
    """Of a request, with what is accepted though it asks for nothing. `null` is as good as a field that is missing."""
    schema = dialect.request.model_json_schema(ref_template=_REF)
    properties, required = schema["properties"], schema["required"]
    properties["model"]["enum"] = list(models)
    for name, field in properties.items():
        if name not in required:
            properties[name] = {"anyOf": [field, {"type": "null"}]}
    for name, values in dialect.neutral.items():
        properties[name] = {"enum": [None, *values], "description": "accepted where it asks for nothing"}
    for name in LABELS:
        properties.setdefault(name, {"description": "accepted, and asks for nothing"})
    return schema


def _ref(model: str) -> Mapping[str, str]:
    return {"$ref": _REF.format(model=model)}


def _error(why: str) -> dict[str, Any]:
    return {"description": why, "content": {"application/json": {"schema": _ref("Error")}}}
