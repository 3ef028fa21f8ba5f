"""What every request passes before it is routed and its body read: its key, and whether there is room for it at all."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.serving.dialects import DIALECTS
from orchestrator.serving.errors import ApiError
from orchestrator.serving.service import Service

OPEN = frozenset({"/", "/health", "/healthz", "/metrics", "/openapi.json", "/docs"})
"""What needs no key: it tells nothing of anybody's requests. A route that is not named here needs one."""
_PAGE = "/page/"  # the page's own files need none, either
_SEARCHES = frozenset(dialect.path for dialect in DIALECTS)


class Gate:
    """Refuses without a key, and when no search can begin: a hundred refusals cost the searches next to nothing."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (path := path_of(scope)) in OPEN or path.startswith(_PAGE):
            await self._app(scope, receive, send)
            return
        try:
            caller = self._service.callers.identify(Headers(scope=scope).get("authorization"))
            scope.setdefault("state", {})["caller"] = caller
            if not searches(scope["method"], path):
                await self._app(scope, receive, send)
                return
            self._service.check_room(caller)
            caller.enter()
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            caller.leave()


def searches(method: str, path: str) -> bool:
    """Whether such a request begins a search."""
    return method == "POST" and path in _SEARCHES


def path_of(scope: Scope) -> str:
    """Of a request, behind the prefix under which a proxy has the app."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)
