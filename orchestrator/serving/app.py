"""The routes, as a FastAPI app over a `Service`. It knows neither Ray nor vLLM, so it is tested without them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from orchestrator.serving.dialects import DIALECTS
from orchestrator.serving.dialects.contract import Dialect, Stamp
from orchestrator.serving.errors import ApiError, client_left, internal
from orchestrator.serving.events import events, written
from orchestrator.serving.gate import Gate, error_response
from orchestrator.serving.metrics import CONTENT_TYPE
from orchestrator.serving.observed import Observed
from orchestrator.serving.openapi import describe
from orchestrator.serving.orders import Answered, Order
from orchestrator.serving.page_routes import add_page_routes
from orchestrator.serving.request_ids import HEADER, RequestIds
from orchestrator.serving.searches import Search
from orchestrator.serving.service import Service

log = logging.getLogger(__name__)


def build_app(service: Service) -> FastAPI:
    """The app; its lifespan runs the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Gate, service=service)
    app.add_middleware(Observed, metrics=service.metrics, tracer=service.tracer)
    app.add_middleware(RequestIds)  # around the gate: what that refuses has an id, too
    if origins := service.config.cors:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    started = int(time.time())

    async def health(_: Request) -> Response:
        found = await service.health()
        return JSONResponse(found.detail, status_code=200 if found.ready else 503)

    for path in ("/health", "/healthz"):
        app.add_api_route(path, health, methods=["GET"], name=path, responses={503: {"description": "it can't"}})
        app.add_api_route(path, health, methods=["HEAD"], include_in_schema=False)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(await service.exposed_metrics(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> Response:
        data = [_model(name, started) for name in service.catalog.models]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.catalog.resolve(name, {})
        return JSONResponse(_model(name, started))

    for dialect in DIALECTS:
        app.add_api_route(dialect.path, partial(_answer, service, dialect), methods=["POST"], name=dialect.path)
    add_page_routes(app, service)
    app.openapi = cache(partial(describe, app, DIALECTS, service.catalog.models))  # type: ignore[method-assign]  # FastAPI's way

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {request.method} {request.url.path[:200]}"
        return JSONResponse(ApiError(error.status_code, message).body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        request_id = request.state.request_id
        log.error("request %s: %s %s failed", request_id, request.method, request.url.path, exc_info=error)
        response = error_response(internal())
        response.headers[HEADER] = request_id  # it is sent outside of `RequestIds`
        return response

    return app


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "headrace"}


async def _answer(service: Service, dialect: Dialect, request: Request) -> Response:
    order = service.order(dialect, await service.bodies.read(request), request.state.request_id)
    request.state.strategy = order.named.name  # for the counts
    searches = await _started(service, order, request)
    try:
        if order.stream:
            await asyncio.gather(*(search.begun() for search in searches))
            happening = events(searches, service.config.keep_alive_s)
            return _SearchStream(searches, written(happening, dialect.writer(order, Stamp())))
        found = await _found(searches, request)
    except BaseException:
        _cancel(searches)
        raise
    return JSONResponse(dialect.body(order, found, Stamp()))


class _SearchStream(StreamingResponse):
    """Server-sent events. However the response ends, its searches do."""

    def __init__(self, searches: Sequence[Search], pieces: AsyncIterator[str]) -> None:
        super().__init__(
            pieces, media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        self._searches = searches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _cancel(self._searches)


def _cancel(searches: Sequence[Search]) -> None:
    for search in searches:
        search.cancel()


async def _started(service: Service, order: Order, request: Request) -> list[Search]:
    """The searches, once it is their turn. A client that leaves before leaves the queue. Raises ApiError."""
    starting = asyncio.create_task(service.search(order, request.state.caller))
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({starting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        if starting.done() and starting.exception() is None:
            _cancel(starting.result())
        raise
    finally:
        leaving.cancel()
        starting.cancel()
    if not starting.done():
        raise client_left()
    return starting.result()


async def _left(request: Request) -> None:
    """Returns when the client does not wait for an answer any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _found(searches: Sequence[Search], request: Request) -> list[Answered]:
    """What the searches found. Ends them when the client leaves first. Raises ApiError for the first that fails."""
    leaving = asyncio.create_task(_left(request))
    tasks: set[asyncio.Task[Any]] = {search.task for search in searches}
    try:
        pending = {*tasks, leaving}
        while pending - {leaving}:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() or any(search.failed for search in searches):
                _cancel(searches)
    finally:
        leaving.cancel()
    if leaving.done() and not leaving.cancelled():
        raise client_left()
    for search in searches:
        if search.failed and not search.task.cancelled():
            search.outcome()
    return [search.outcome() for search in searches]
