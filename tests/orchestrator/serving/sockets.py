"""The app over fakes behind the real HTTP server, and raw sockets to it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from orchestrator.serving.config import Limits
from orchestrator.serving.http_server import HttpServer
from tests.fakes import ScriptedPolicy
from tests.orchestrator.serving.endpoint import TIMEOUT_S, endpoint

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(
    *, head_timeout_s: float = TIMEOUT_S, policy: ScriptedPolicy | None = None, limits: Limits | None = None
) -> AsyncIterator[FastAPI]:
    """The app on a port; its `state` has `port` and `server`."""
    port = free_port()
    app = endpoint(policy or ScriptedPolicy({"Q:": ["4"]}), limits=limits or Limits(max_concurrent=1))
    server = HttpServer(app, host=HOST, port=port, head_timeout_s=head_timeout_s)
    server.start()
    app.state.port, app.state.server = port, server
    try:
        await app.state.service.opened()
        yield app
    finally:
        await server.stop()


async def said(port: int, *pieces: bytes) -> bytes:
    """What the server answers before it closes the connection."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)  # so that each is read alone
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()
