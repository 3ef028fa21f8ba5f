"""Counts and traces the requests for searches, whoever answers them: the routes, or the gate before them."""

import time

from opentelemetry.trace import Span, Tracer, use_span
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.serving import spans
from orchestrator.serving.gate import path_of, searches
from orchestrator.serving.metrics import Metrics

NO_STRATEGY = "none"
"""Of a request that was refused before it was understood."""


class Observed:
    """Stands around the gate."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer | None) -> None:
        """Without a tracer there are no spans."""
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not searches(scope["method"], path := path_of(scope)):
            await self._app(scope, receive, send)
            return
        watched = _Watched(scope, send, self._metrics)
        if self._tracer is None:
            await watched.run(self._app, receive)
            return
        request_id = scope["state"]["request_id"]
        span = spans.request_span(self._tracer, path, request_id, Headers(scope=scope))
        with use_span(span, record_exception=False):
            await watched.run(self._app, receive, span)


class _Watched:
    """One request."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics) -> None:
        self._scope = scope
        self._send = send
        self._metrics = metrics
        self._began = time.monotonic()
        self._status = 500  # where nothing was sent
        self._streams = False

    async def run(self, app: ASGIApp, receive: Receive, span: Span | None = None) -> None:
        try:
            await app(self._scope, receive, self._told)
        finally:
            self._metrics.answered(self._strategy, self._status, self._seconds)
            if span is not None:
                spans.ended(span, status=self._status, strategy=self._strategy)

    async def _told(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._streams = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
        elif self._streams and message.get("body"):
            self._streams = False
            self._metrics.began_to_stream(self._strategy, self._seconds)
        await self._send(message)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def _strategy(self) -> str:
        """As the route has noted it."""
        strategy: str = self._scope["state"].get("strategy", NO_STRATEGY)
        return strategy
