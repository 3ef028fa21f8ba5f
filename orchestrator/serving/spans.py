"""OpenTelemetry spans: request, search, expand, score. Nothing is made where no exporter is configured.

An exporter is configured by the standard variables `OTEL_TRACES_EXPORTER` or `OTEL_EXPORTER_OTLP_ENDPOINT`, and read by
OpenTelemetry's own SDK, which the user installs.
"""

import os
from collections.abc import Awaitable, Mapping
from importlib.metadata import entry_points
from typing import Any, cast

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from orchestrator.core.errors import UserError
from orchestrator.core.protocols import Session, Verifier
from orchestrator.serving.orders import Answered, Order

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def configured_tracer(environment: Mapping[str, str]) -> Tracer | None:
    """Where the variables ask for an exporter: a tracer of the SDK that they configure. Raises UserError where the SDK
    or the exporter can't be used."""
    exporters = environment.get(_EXPORTER, "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "")
    names = [name.strip() for name in exporters.split(",") if name.strip() not in ("", "none")]
    if not names or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    os.environ.update(environment)  # the SDK and its exporters read the others themselves
    os.environ.setdefault("OTEL_SERVICE_NAME", "headrace")
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise UserError(f"{_EXPORTER}: spans are exported by opentelemetry-sdk, which is not installed") from None
    provider = TracerProvider()
    for name in names:
        found = list(entry_points(group="opentelemetry_traces_exporter", name=_of_protocol(name)))
        if not found:
            raise UserError(f"{_EXPORTER}: no exporter {name!r} is installed; otlp is of opentelemetry-exporter-otlp")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return provider.get_tracer("headrace")


def _of_protocol(name: str) -> str:
    """OTLP's two protocols are exporters of their own."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL"))
    return "otlp_proto_http" if (name, protocol) == ("otlp", "http/protobuf") else name


def request_span(tracer: Tracer, path: str, request_id: str, headers: Mapping[str, str]) -> Span:
    """Of a request, within the trace that its `traceparent` names."""
    attributes = {"url.path": path, "http.request.method": "POST", "headrace.request_id": request_id}
    return tracer.start_span("request", context=propagate.extract(headers), attributes=attributes)


async def traced_search(tracer: Tracer, parent: Context, order: Order, searching: Awaitable[Answered]) -> Answered:
    """The search in a span of its own."""
    attributes: dict[str, Any] = {
        "headrace.request_id": order.request_id,
        "headrace.strategy": order.named.name,
        "headrace.seed": order.seed,
    }
    with tracer.start_as_current_span("search", context=parent, attributes=attributes, record_exception=False) as span:
        answered = await searching
        cost = answered.ledger
        span.set_attributes(
            {
                "headrace.end_reason": answered.result.end_reason.value,
                "headrace.generated_tokens": cost.generated_tokens,
                "headrace.verifier_tokens": cost.verifier_tokens,
                "headrace.candidates": cost.candidates,
            }
        )
        return answered


def traced_session(session: Session, tracer: Tracer) -> Session:
    return cast(Session, _Traced(session, tracer, {name: "expand" for name in ("expand", "rollout")}))


def traced_verifier(verifier: Verifier, tracer: Tracer) -> Verifier:
    return cast(Verifier, _Traced(verifier, tracer, {"score": "score"}))


class _Traced:
    """What it stands for, with a span around some of its methods, which take a sequence first."""

    def __init__(self, inner: Any, tracer: Tracer, spans: Mapping[str, str]) -> None:
        self._inner = inner
        self._tracer = tracer
        self._spans = spans

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in self._spans:
            return method

        async def traced(items: Any, *args: Any, **named: Any) -> Any:
            attributes: dict[str, Any] = {"headrace.method": name, "headrace.num": len(items)}
            with self._tracer.start_as_current_span(self._spans[name], attributes=attributes, record_exception=False):
                return await method(items, *args, **named)

        return traced


def ended(span: Span, *, status: int, strategy: str) -> None:
    """A request's span ends."""
    span.set_attributes({"http.response.status_code": status, "headrace.strategy": strategy})
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
