"""The description of the routes says what they take."""

from typing import Any

import pytest

from tests.fakes import ScriptedPolicy
from tests.orchestrator.serving.endpoint import client_of, endpoint


@pytest.fixture(scope="module")
async def described() -> dict[str, Any]:
    async with client_of(endpoint(ScriptedPolicy({"Q:": ["a"]}))) as http:
        body: dict[str, Any] = (await http.get("/openapi.json")).json()
    return body


async def test_every_route_is_described_and_docs_shows_them(described: dict[str, Any]) -> None:
    routes = {
        "/health",
        "/healthz",
        "/metrics",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/headrace/strategies",
        "/v1/headrace/traces/{request_id}",
    }
    assert routes | {"/v1/responses"} == described["paths"].keys()
    async with client_of(endpoint(ScriptedPolicy({"Q:": ["a"]}))) as http:
        page = await http.get("/docs")
        health = await http.get("/health")
    assert page.status_code == 200 and "/openapi.json" in page.text
    assert health.json()["status"] == "ready"


def test_models_are_named_and_every_answer_of_their_routes_is_described(described: dict[str, Any]) -> None:
    chat = described["components"]["schemas"]["ChatRequest"]["properties"]["model"]
    assert {"tiny", "tiny@greedy"} <= set(chat["enum"])
    for path in ("/v1/models/{name}", "/v1/headrace/traces/{request_id}"):
        assert described["paths"][path]["get"]["responses"].keys() == {"200", "401", "404"}
    for path in ("/v1/models", "/v1/headrace/strategies"):
        assert described["paths"][path]["get"]["responses"].keys() == {"200", "401"}
    assert "text/plain" in described["paths"]["/metrics"]["get"]["responses"]["200"]["content"]


@pytest.mark.parametrize(
    ("path", "required"),
    [
        ("/v1/chat/completions", ["model", "messages"]),
        ("/v1/completions", ["model", "prompt"]),
        ("/v1/responses", ["model", "input"]),
    ],
)
async def test_a_request_is_described_with_every_field_that_is_taken(
    described: dict[str, Any], path: str, required: list[str]
) -> None:
    operation = described["paths"][path]["post"]
    schema = resolved(described, operation["requestBody"]["content"]["application/json"]["schema"])
    assert schema["required"] == required and schema["additionalProperties"] is False
    assert {"temperature", "headrace", "user", "logit_bias", "stream"} <= schema["properties"].keys()
    assert {"200", "400", "404", "429", "503", "504"} <= operation["responses"].keys()
    assert resolved(described, operation["responses"]["400"]["content"]["application/json"]["schema"])["properties"]


async def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    def follow(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                resolved(described, value)
            for inner in value.values():
                follow(inner)
        elif isinstance(value, list):
            for inner in value:
                follow(inner)

    follow(described)


def resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: Any = described
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found
