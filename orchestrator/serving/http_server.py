"""The HTTP server, in the event loop that the searches run in: nothing stands between a client and the app."""

import asyncio
import json
import socket
from functools import partial
from typing import Any

from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator.core.errors import UserError
from orchestrator.serving.errors import invalid

_MAX_HEAD_BYTES = 65_536  # of a request line and its headers; browsers and servers stop far below
_KEEP_ALIVE_S = 90.0  # an idle connection; longer than clients keep theirs, so that none is closed in their hands
_FLUSH_S = 5.0  # for the last answers to leave, when the server stops
_BACKLOG = 2048


class HttpServer:
    """An app on a port; its lifespan is the server's."""

    def __init__(self, app: FastAPI, *, host: str, port: int, head_timeout_s: float) -> None:
        """`head_timeout_s` is what a client has to send a request line and headers."""
        self._address = (host, port)
        self._server = Server(
            Config(
                app,
                http=partial(_Protocol, head_timeout_s),  # type: ignore[arg-type]  # called as its class is
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                timeout_keep_alive=int(_KEEP_ALIVE_S),
                timeout_graceful_shutdown=int(_FLUSH_S),
                backlog=_BACKLOG,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serves from now on. Raises UserError when nothing can listen there."""
        listener = listen(*self._address)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def stop(self) -> None:
        """Accepts no more connections, lets answers leave, and ends the app's lifespan."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UserError when none can."""
    try:
        [(family, kind, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except socket.gaierror as error:
        raise UserError(f"host: can't resolve {host!r}: {error.strerror}") from None
    except OSError as error:
        raise UserError(
            f"port: can't listen on {host}:{port}: {error.strerror}; choose another with port=..."
        ) from None
    return listener


class _Protocol(HttpToolsProtocol):
    """Uvicorn's, with bounds on a request's head, and with OpenAI's error object for what is not HTTP."""

    def __init__(self, timeout_s: float, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._timeout_s = timeout_s
        self._late: asyncio.TimerHandle | None = None
        self._in_head, self._head_bytes = True, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self.send_400_response(f"the request line and headers must have at most {_MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = json.dumps(invalid(msg).body).encode()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    def _await_head(self) -> None:
        self._stop_waiting()
        self._in_head, self._head_bytes = True, 0
        self._late = self.loop.call_later(self._timeout_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
