"""Spans, over OpenTelemetry's own SDK; and nothing where nobody asks for them."""

import os
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.core.errors import UserError
from orchestrator.serving import spans
from orchestrator.serving.spans import configured_tracer
from tests.fakes import ScriptedPolicy, TableVerifier
from tests.orchestrator.serving.endpoint import chat, client_of, endpoint

PATH = "/v1/chat/completions"
SECRET = "zebra Q:"


def policy() -> ScriptedPolicy:
    script = {"Q:": ["a\n\nAnswer: 1", "bb\n\nAnswer: 2"], "a\n\n": ["Answer: 1"], "bb\n\n": ["Answer: 2"]}
    return ScriptedPolicy(script, context_length=2000)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_a_request_is_a_trace_of_search_expand_and_score(exporter, tracer) -> None:
    beam = {"strategy": "beam_search", "n": 2, "beam_width": 1}
    messages = [{"role": "user", "content": SECRET}]
    async with client_of(endpoint(policy(), TableVerifier(lambda text: 0.5), tracer=tracer)) as http:
        response = await http.post(PATH, json=chat(messages=messages, headrace=beam), headers={"x-request-id": "mine"})
    assert response.status_code == 200, response.text
    spans = exporter.get_finished_spans()
    [request] = [span for span in spans if span.name == "request"]
    [search] = [span for span in spans if span.name == "search"]
    below = {span.name: span for span in spans if span.name in ("expand", "score")}
    assert request.attributes["headrace.request_id"] == search.attributes["headrace.request_id"] == "mine"
    assert (request.attributes["http.response.status_code"], request.attributes["headrace.strategy"]) == (
        200,
        "beam_search",
    )
    assert parent(request) is None and parent(search) == request.context.span_id
    assert parent(below["expand"]) == search.context.span_id
    assert {span.context.trace_id for span in spans} == {request.context.trace_id}
    ledger = response.json()["headrace"]["ledger"]
    assert search.attributes["headrace.generated_tokens"] == ledger["generated_tokens"]
    assert "zebra" not in "".join(span.to_json() for span in spans)


async def test_a_trace_is_part_of_the_clients_and_a_refusal_has_one_too(exporter, tracer) -> None:
    theirs = "0af7651916cd43dd8448eb211c80319c"
    async with client_of(endpoint(policy(), tracer=tracer)) as http:
        headers = {"traceparent": f"00-{theirs}-b7ad6b7169203331-01"}
        await http.post(PATH, json=chat(model="tiny@nothing"), headers=headers)
        await http.get("/v1/models")
    [request] = exporter.get_finished_spans()
    assert f"{request.context.trace_id:032x}" == theirs
    assert request.attributes["http.response.status_code"] == 404


async def test_nothing_is_wrapped_where_no_exporter_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("a span was made")

    for name in ("request_span", "_Traced", "ended"):
        monkeypatch.setattr(spans, name, never)
    async with client_of(endpoint(policy(), TableVerifier(lambda text: 0.5))) as http:
        assert (await http.post(PATH, json=chat())).status_code == 200


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_SERVICE_NAME": "x"},
    ],
)
def test_without_an_exporter_there_is_no_tracer(environment: dict[str, str]) -> None:
    assert configured_tracer(environment) is None


def test_an_exporter_that_does_not_exist_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(UserError, match="OTEL_TRACES_EXPORTER: no exporter 'nothing' is installed"):
        configured_tracer({"OTEL_TRACES_EXPORTER": "nothing"})


def test_a_missing_sdk_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UserError, match="opentelemetry-sdk, which is not installed"):
        configured_tracer({"OTEL_TRACES_EXPORTER": "otlp"})


def test_the_standard_variables_alone_export_spans() -> None:
    """In a process of its own: a tracer is configured once for all."""
    code = (
        "from orchestrator.serving.spans import configured_tracer\n"
        "configured_tracer({'OTEL_TRACES_EXPORTER': 'console'}).start_span('exported').end()\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=60)
    assert '"name": "exported"' in done.stdout, done.stderr
    assert '"service.name": "headrace"' in done.stdout
