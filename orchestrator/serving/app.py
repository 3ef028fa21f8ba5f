"""The routes, as a FastAPI app over a `Service`. It knows neither Ray nor vLLM, so it is tested without them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.serving.dialects import DIALECTS
from orchestrator.serving.dialects.contract import Dialect, Stamp
from orchestrator.serving.errors import ApiError, internal
from orchestrator.serving.events import events, written
from orchestrator.serving.openapi import describe
from orchestrator.serving.orders import Answered
from orchestrator.serving.request_ids import HEADER, RequestIds
from orchestrator.serving.searches import Search
from orchestrator.serving.service import Service

log = logging.getLogger(__name__)

_PATHS = frozenset(dialect.path for dialect in DIALECTS)


def build_app(service: Service) -> FastAPI:
    """The app; its lifespan runs the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    app.add_middleware(_Gate, service=service)
    app.add_middleware(RequestIds)  # around the gate: what that refuses has an id, too
    started = int(time.time())

    async def health(_: Request) -> Response:
        found = await service.health()
        return JSONResponse(found.detail, status_code=200 if found.ready else 503)

    for path in ("/health", "/healthz"):
        app.add_api_route(path, health, methods=["GET"], name=path)
        app.add_api_route(path, health, methods=["HEAD"], include_in_schema=False)

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
    app.openapi = cache(partial(describe, app, DIALECTS))  # type: ignore[method-assign]  # FastAPI's way

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return _error_response(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {request.method} {request.url.path[:200]}"
        return JSONResponse(ApiError(error.status_code, message).body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        request_id = request.state.request_id
        log.error("request %s: %s %s failed", request_id, request.method, request.url.path, exc_info=error)
        response = _error_response(internal())
        response.headers[HEADER] = request_id  # it is sent outside of `RequestIds`
        return response

    return app


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "headrace"}


async def _answer(service: Service, dialect: Dialect, request: Request) -> Response:
    order = service.order(dialect, await service.bodies.read(request), request.state.request_id)
    searches = service.search(order)
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


class _Gate:
    """Refuses a request that no search can begin for at once: before it is routed and its body read.

    A hundred refusals cost the searches next to nothing.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in _PATHS:
            try:
                self._service.check_room()
            except ApiError as error:
                app = _error_response(error)
        await app(scope, receive, send)


def _error_response(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


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


async def _found(searches: Sequence[Search], request: Request) -> list[Answered]:
    """What the searches found. Ends them when the client leaves first. Raises ApiError for the first that fails."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(left())
    tasks: set[asyncio.Task[Any]] = {search.task for search in searches}
    try:
        pending = {*tasks, leaving}
        while pending - {leaving}:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() or any(search.failed for search in searches):
                _cancel(searches)
    finally:
        leaving.cancel()
    for search in searches:
        if search.failed and not search.task.cancelled():
            search.outcome()
    return [search.outcome() for search in searches]
