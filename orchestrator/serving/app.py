"""The routes, as a FastAPI app over a `Service`. It knows neither Ray nor vLLM, so it is tested without them."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.serving.errors import ApiError, internal
from orchestrator.serving.openai_api import Order, answer_chunks, completion, first_chunk, model_object
from orchestrator.serving.request_ids import HEADER, RequestIds
from orchestrator.serving.searches import Search
from orchestrator.serving.service import Service

log = logging.getLogger(__name__)

_COMPLETIONS = "/v1/chat/completions"


def build_app(service: Service) -> FastAPI:
    """The app; its lifespan runs the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_middleware(_Gate, service=service)
    app.add_middleware(RequestIds)  # around the gate: what that refuses has an id, too
    started = int(time.time())

    @app.api_route("/healthz", methods=["GET", "HEAD"])
    async def healthz() -> Response:
        health = await service.health()
        return JSONResponse(health.detail, status_code=200 if health.ready else 503)

    @app.get("/v1/models")
    async def models() -> Response:
        data = [model_object(name, created=started) for name in service.catalog.models]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.catalog.resolve(name, {})
        return JSONResponse(model_object(name, created=started))

    @app.post(_COMPLETIONS)
    async def chat_completions(request: Request) -> Response:
        order = service.order(await service.bodies.read(request), request.state.request_id)
        search = service.search(order)
        try:
            if order.stream:
                await search.begun()
                return _SearchStream(search, _events(order, search, service.config.keep_alive_s))
            await _done_or_left(search, request)
        except BaseException:
            search.cancel()
            raise
        return JSONResponse(completion(order, search.outcome(), id=_new_id(), created=int(time.time())))

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


class _Gate:
    """Refuses a request that no search can begin for at once: before it is routed and its body read.

    A hundred refusals cost the searches next to nothing.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == _COMPLETIONS:
            try:
                self._service.check_room()
            except ApiError as error:
                app = _error_response(error)
        await app(scope, receive, send)


def _error_response(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


class _SearchStream(StreamingResponse):
    """Server-sent events. However the response ends, its search does."""

    def __init__(self, search: Search, events: AsyncIterator[str]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        self._search = search

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._search.cancel()


async def _events(order: Order, search: Search, keep_alive_s: float) -> AsyncIterator[str]:
    """The author at once, comments while the search runs, then the answer: it is known only at the end."""
    name: dict[str, Any] = {"id": _new_id(), "created": int(time.time())}
    yield _event(first_chunk(order, **name))
    while not search.task.done():
        done, _ = await asyncio.wait([search.task], timeout=keep_alive_s)
        if not done:
            yield ": searching\n\n"
    try:
        for chunk in answer_chunks(order, search.outcome(), **name):
            yield _event(chunk)
    except ApiError as error:
        yield _event(error.body)
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


async def _done_or_left(search: Search, request: Request) -> None:
    """Waits for the search; cancels it when the client leaves first."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(left())
    try:
        await asyncio.wait([search.task, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    if not search.task.done():
        search.cancel()
        await asyncio.wait([search.task])
