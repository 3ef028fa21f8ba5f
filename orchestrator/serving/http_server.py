"""The HTTP server, in the event loop that the searches run in: nothing stands between a client and the app."""

import asyncio
import json
import re
import socket
from functools import partial
from typing import Any

from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator.core.errors import UserError
from orchestrator.serving.errors import invalid

_MAX_HEAD_BYTES = 65_536  # of a request line and its headers; browsers and servers stop far below
_KEEP_ALIVE_S = 90  # an idle connection; longer than clients keep theirs, so that none is closed in their hands
_FLUSH_S = 5  # for the last answers to leave, when the server stops
_BACKLOG = 2048
_UPGRADE = re.compile(rb"^(?:upgrade|http2-settings):[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)


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
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_FLUSH_S,
                backlog=_BACKLOG,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serves from now on. Raises UserError when nothing can listen there."""
        listener = listen(*self._address)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))

    @property
    def ended(self) -> bool:
        """Whether it serves no more, for whatever reason."""
        return self._serving is not None and self._serving.done()

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
    """Uvicorn's, with bounds on heads and on idle connections, and with OpenAI's error object for what is not HTTP.

    It speaks HTTP/1.1 alone: a client that offers another protocol (Java's offers HTTP/2) is answered in that.
    """

    def __init__(self, timeout_s: float, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._timeout_s = timeout_s
        self._late: asyncio.TimerHandle | None = None
        self._num_begun = 0  # requests
        self._in_head, self._head_bytes = True, 0
        self._body_left = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if not self._body_left and b"pgrade" in data.lower():
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"", head + end) + rest
        num_begun = self._num_begun
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._num_begun == num_begun:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.send_400_response(f"the request line and headers must have at most {_MAX_HEAD_BYTES} bytes")
                return
        if self._idle and self._late is None and self.timeout_keep_alive_task is None:
            self._wait()  # uvicorn stopped its clock for what is no request, or the rest of one that is answered

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._num_begun += 1
        self._in_head, self._head_bytes = True, 0
        if self._idle:
            self._wait()

    def on_headers_complete(self) -> None:
        self._in_head, self._body_left = False, True
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_left = False
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._body_left or self._in_head:  # of this request, or of the next one
            self._wait()

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

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        """For a bounded time, for the rest of a head or of a body that nobody needs."""
        self._stop_waiting()
        self._late = self.loop.call_later(self._timeout_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
