"""Facts about the HTTP server: real sockets, the app over fakes."""

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest

from orchestrator.core.errors import UserError
from orchestrator.serving.http_server import listen
from tests.fakes import ScriptedPolicy
from tests.orchestrator.serving.endpoint import TIMEOUT_S, chat, num_searches
from tests.orchestrator.serving.sockets import HOST, said, serving
from tests.waiting import until


def error_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    error: dict[str, Any] = json.loads(body)["error"]
    return error


async def test_what_is_not_http_gets_an_error_object() -> None:
    async with serving() as app:
        error = error_of(await said(app.state.port, b"\x16\x03\x01 no http at all\r\n\r\n"))
    assert (error["message"], error["type"]) == ("Invalid HTTP request received.", "invalid_request_error")


@pytest.mark.parametrize("piece", [b"x-more: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
async def test_a_head_without_end_is_refused(piece: bytes) -> None:
    async with serving() as app:
        answer = await said(app.state.port, b"GET /healthz HTTP/1.1\r\nx: ", *[piece * 35] * 2)
    assert "at most 65536 bytes" in error_of(answer)["message"]


async def test_a_head_that_stalls_is_cut_off_and_a_request_that_takes_longer_is_not() -> None:
    policy = ScriptedPolicy({"Q:": ["4"]})
    async with serving(head_timeout_s=0.05, policy=policy) as app:
        policy.gate = asyncio.Event()
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{app.state.port}", timeout=TIMEOUT_S) as http:
            answering = asyncio.create_task(http.post("/v1/chat/completions", json=chat()))
            await until(lambda: num_searches(app) == 1)
            assert await said(app.state.port) == b""
            assert await said(app.state.port, b"GET /healthz HTTP/1.1\r\n") == b""
            policy.gate.set()
            assert (await answering).status_code == 200


REFUSED = b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n"  # before its body is there


@pytest.mark.parametrize(
    "pieces", [(REFUSED, b"a", b"a"), (REFUSED, b"a" * 99), (b"GET /healthz HTTP/1.1\r\n\r\n", b"\r\n")]
)
async def test_a_connection_on_which_no_request_follows_is_closed(pieces: tuple[bytes, ...]) -> None:
    async with serving(head_timeout_s=0.2) as app:
        answer = await said(app.state.port, *pieces)
    assert answer.startswith(b"HTTP/1.1 ") and answer.count(b"HTTP/1.1 ") == 1


async def test_a_request_that_has_begun_does_not_end_the_one_before() -> None:
    policy = ScriptedPolicy({"Q:": ["4"]})
    policy.gate = asyncio.Event()
    body = json.dumps(chat()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    async with serving(head_timeout_s=0.1, policy=policy) as app:
        answering = asyncio.create_task(said(app.state.port, head % len(body) + body + b"GET /hea"))
        await until(lambda: num_searches(app) == 1)
        await asyncio.sleep(0.3)  # longer than a head may take
        policy.gate.set()
        assert (await answering).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_offers_http_2_is_answered_in_http_1() -> None:
    body = json.dumps(chat()).encode()
    offer = (
        b"POST /v1/chat/completions HTTP/1.1\r\nconnection: close, Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAEAAEAAAAIAAAAB\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    async with serving(head_timeout_s=0.2) as app:
        answer = await said(app.state.port, offer % len(body), body)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_connection_serves_one_request_after_another() -> None:
    async with (
        serving() as app,
        httpx.AsyncClient(base_url=f"http://{HOST}:{app.state.port}", timeout=TIMEOUT_S) as http,
    ):
        for _ in range(3):
            assert (await http.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_a_server_that_stops_lets_answers_leave_and_frees_its_port() -> None:
    policy = ScriptedPolicy({"Q:": ["4"]})
    async with serving(policy=policy) as app:
        policy.gate = asyncio.Event()
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{app.state.port}", timeout=TIMEOUT_S) as http:
            answering = asyncio.create_task(http.post("/v1/chat/completions", json=chat()))
            await until(lambda: num_searches(app) == 1)
            stopping = asyncio.create_task(app.state.server.stop())
            policy.gate.set()
            assert (await answering).status_code == 200
        await stopping
        listen(HOST, app.state.port).close()


def test_a_port_in_use_is_the_users_mistake() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as other servers listen
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
            listen(HOST, port)
    listen(HOST, port).close()


def test_a_foreign_address_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"can't listen on 192.0.2.1"):
        listen("192.0.2.1", 8000)
