"""The routes of the page: the page itself, what this server offers it, and the traces of past requests."""

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from orchestrator.serving.offers import offers
from orchestrator.serving.page import POLICY, page_files
from orchestrator.serving.service import Service

_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",  # an address may hold a trace's id
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def add_page_routes(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return _file(name)

    @app.get("/v1/headrace/strategies")
    async def strategies() -> Response:
        """The strategies that this server can run, their parameters, and its limits."""
        return JSONResponse(offers(service.catalog, service.config))

    @app.get("/v1/headrace/traces/{request_id:path}")
    async def trace(request_id: str, request: Request) -> Response:
        """What happened in a past request, by its `X-Request-Id`. Whose key asked may open it."""
        found = service.traces.get(request_id, request.state.caller.name)
        return JSONResponse(found, headers={"cache-control": "no-store"})


def _file(name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise HTTPException(404, "Not Found")
    return Response(found.content, media_type=found.media_type, headers=_HEADERS)
