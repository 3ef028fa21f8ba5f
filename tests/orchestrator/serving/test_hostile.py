"""Requests that mean harm, or are broken, on real sockets: each has its status and an error object, and afterwards the
server answers as before and holds nothing of them."""

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from orchestrator.serving.config import Limits
from orchestrator.serving.dialects import DIALECTS
from tests.fakes import ScriptedPolicy
from tests.orchestrator.serving.endpoint import TIMEOUT_S, chat, num_searches
from tests.orchestrator.serving.sockets import HOST, said, serving
from tests.waiting import until

PATH = "/v1/chat/completions"
GOOD = json.dumps(chat()).encode()
CONNECTIONS = 1000


@asynccontextmanager
async def unharmed(policy: ScriptedPolicy | None = None, patience_s: float = 1.5) -> AsyncIterator[FastAPI]:
    """A server that must answer afterwards, and hold no search, request, body or connection. `patience_s` is what a
    client has for a head, and for a body."""
    limits = Limits(max_concurrent=4, max_body_bytes=10_000, body_timeout_s=patience_s, max_messages=4)
    async with serving(head_timeout_s=patience_s, limits=limits, policy=policy) as app:
        yield app
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{app.state.port}", timeout=TIMEOUT_S) as http:
            assert (await http.get("/healthz")).json() == {"status": "ready", "searches": 0, "queued": 0}
            assert (await http.post(PATH, json=chat())).status_code == 200
        await until(lambda: is_idle(app), pause_s=0.01)


def is_idle(app: FastAPI) -> bool:
    service, server = app.state.service, app.state.server._server
    held = (num_searches(app), service.num_queued, service.callers.identify(None).num_in_flight)
    return not any(held) and not service.bodies._arriving and not server.server_state.connections


def request(
    body: bytes, *headers: bytes, path: str = PATH, method: bytes = b"POST", length: int | None = None
) -> bytes:
    given = [b"host: x", b"connection: close", b"content-type: application/json", *headers]
    if length is None or length >= 0:
        given.append(b"content-length: %d" % (len(body) if length is None else length))
    return b"%b %b HTTP/1.1\r\n%b\r\n\r\n%b" % (method, path.encode(), b"\r\n".join(given), body)


def read(answer: bytes) -> tuple[int, dict[str, Any]]:
    """The status, and the error, which must be whole."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), answer
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] and 0 < len(error["message"]) < 2000
    return int(head.split()[1]), error


def chatting(content: str) -> bytes:
    """A chat whose text is JSON as it stands."""
    return b'{"model": "tiny", "messages": [{"role": "user", "content": %b}]}' % content.encode()


BODIES = {
    "empty": b"",
    "cut off": b'{"model": "tiny"',
    "two": GOOD + GOOD,
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "deep lists": b"[" * 9_000,
    "deep objects": b'{"a":' * 1_800,
    "deep and whole": b'{"model": "tiny", "messages": ' + b"[" * 4000 + b"]" * 4000 + b"}",
    "NaN": b'{"model": "tiny", "temperature": NaN}',
    "infinity": b'{"model": "tiny", "temperature": -Infinity}',
    "a huge number": b'{"model": "tiny", "messages": [], "temperature": 1e999}',
    "a huge integer": b'{"model": "tiny", "messages": [], "max_tokens": ' + b"9" * 4000 + b"}",
    "half a character": chatting(r'"\ud800"'),
    "halves in the wrong order": chatting(r'"\udc00\ud800"'),
    "half a character in a key": b'{"\\ud800": 1}',
    "a raw control character": chatting('"a\x00b"'),
    "single quotes": b"{'model': 'tiny'}",
    "a comment": b"{} // hello",
    "no messages": b'{"model": "tiny", "messages": []}',
    "many messages": json.dumps(chat(messages=[{"role": "user", "content": "Q:"}] * 5)).encode(),
    "a model that is none": b'{"model": {"$ne": null}, "messages": []}',
    "another type": b'{"model": "tiny", "messages": {"role": "user"}}',
}


@pytest.mark.parametrize("path", [dialect.path for dialect in DIALECTS])
async def test_a_body_that_is_no_request_is_400(path: str) -> None:
    async with unharmed() as app:
        for name, body in BODIES.items():
            status, error = read(await said(app.state.port, request(body, path=path)))
            assert status == 400, (name, error)


CHUNKED = b"transfer-encoding: chunked"

HEADS = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n"),
    "garbage": (b"\x00" * 100 + b"\r\n\r\n",),
    "a header without a name": (b"GET /healthz HTTP/1.1\r\n: x\r\n\r\n",),
    "a header without a colon": (b"GET /healthz HTTP/1.1\r\nhost\r\n\r\n",),
    "a negative length": (request(b"", b"content-length: -1", length=-1),),
    "a length that is no number": (request(b"", b"content-length: many", length=-1),),
    "two lengths": (request(GOOD, b"content-length: 5"),),
    "a length and chunks": (request(b"0\r\n\r\n", CHUNKED),),
    "a chunk of no size": (request(b"zz\r\nhello\r\n", CHUNKED, length=-1),),
    "a chunk longer than it says": (request(b"2\r\nhello\r\n0\r\n\r\n", CHUNKED, length=-1),),
    "a chunk of a huge size": (request(b"f" * 40 + b"\r\n", CHUNKED, length=-1),),
    "a head without end": (b"GET /healthz HTTP/1.1\r\nx: ", b"a" * 70_000),
}


@pytest.mark.parametrize("pieces", HEADS.values(), ids=HEADS)
async def test_what_is_no_http_is_400_and_the_connection_ends(pieces: tuple[bytes, ...]) -> None:
    async with unharmed() as app:
        status, _ = read(await said(app.state.port, *pieces))
    assert status == 400


TEXT = request(GOOD).replace(b"application/json", b"text/plain")
CHUNK = b"2000\r\n" + b" " * 0x2000 + b"\r\n"

REFUSED = {
    "a path that is none": (request(b"{}", path="/v2/nothing"), 404),
    "a path that climbs": (request(b"", path="/v1/models/../../etc/passwd", method=b"GET"), 404),
    "half a character in a path": (request(b"", path="/v1/models/%ed%a0%80", method=b"GET"), 404),
    "another content type": (TEXT, 415),
    "no content type": (request(GOOD).replace(b"content-type", b"x-type"), 415),
    "a length over the cap": (request(b"", length=10**18), 413),
    "chunks over the cap": (request(CHUNK * 2 + b"0\r\n\r\n", CHUNKED, length=-1), 413),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_is_not_taken_is_refused_by_its_status(sent: bytes, status: int) -> None:
    async with unharmed() as app:
        assert read(await said(app.state.port, sent))[0] == status


@pytest.mark.parametrize("path", [PATH, "/v1/models", "/healthz"])
@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND"])
async def test_a_wrong_method_is_405_and_says_which_are_right(path: str, method: bytes) -> None:
    async with unharmed() as app:
        answer = await said(app.state.port, request(b"", path=path, method=method))
    assert read(answer)[0] == 405 and b"\r\nallow: " in answer.lower()


async def test_a_wrong_method_that_no_server_knows_is_400() -> None:
    async with unharmed() as app:
        assert read(await said(app.state.port, request(b"", method=b"BREW")))[0] == 400


@pytest.mark.parametrize(
    "sent",
    [request(GOOD[:10], length=len(GOOD)), request(b"5\r\n{", CHUNKED, length=-1)],
    ids=["by length", "in chunks"],
)
async def test_an_upload_that_stalls_is_408(sent: bytes) -> None:
    async with unharmed() as app:
        assert read(await said(app.state.port, sent))[0] == 408


async def test_an_upload_of_a_byte_at_a_time_is_408_too() -> None:
    async with unharmed() as app:
        reader, writer = await asyncio.open_connection(HOST, app.state.port)
        head, body = request(GOOD).replace(b"connection: close\r\n", b"").split(b"\r\n\r\n", 1)
        writer.write(head + b"\r\n\r\n")
        answering = asyncio.create_task(reader.readuntil(b"}}"))
        for index in range(len(body)):
            writer.write(body[index : index + 1])
            await asyncio.wait([answering], timeout=0.1)
            if answering.done():
                break
        assert read(await answering)[0] == 408
        writer.close()


def silent(port: int, sent: bytes) -> socket.socket:
    """A client that sends, and reads nothing."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    made.connect((HOST, port))
    made.sendall(sent)
    return made


@pytest.mark.parametrize("stream", [False, True])
async def test_clients_that_do_not_read_are_in_nobodys_way(stream: bool) -> None:
    long = "word " * 5_000  # more than their sockets take
    policy = ScriptedPolicy({"Q:": [long]}, context_length=100_000)
    asked = request(json.dumps(chat(stream=stream, max_tokens=4000)).encode())
    async with unharmed(policy=policy) as app:
        clients = [silent(app.state.port, asked) for _ in range(30)]
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{app.state.port}", timeout=TIMEOUT_S) as http:
            await until(lambda: len(policy.requests) == len(clients), pause_s=0.01)
            assert (await http.get("/healthz")).status_code == 200
            await until(lambda: num_searches(app) == app.state.service.num_queued == 0, pause_s=0.01)
        for client in clients:
            client.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_half_closes_or_resets_frees_its_search(stream: bool) -> None:
    policy = ScriptedPolicy({"Q:": ["4"]})
    policy.gate = asyncio.Event()
    asked = request(json.dumps(chat(stream=stream)).encode())
    async with unharmed(policy=policy) as app:
        clients = [silent(app.state.port, asked) for _ in range(6)]  # four search, two wait
        await until(lambda: num_searches(app) == 4 and app.state.service.num_queued == 2, pause_s=0.01)
        for client in clients[::2]:
            client.shutdown(socket.SHUT_WR)
        for client in clients[1::2]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        await until(lambda: num_searches(app) == app.state.service.num_queued == 0, pause_s=0.01)
        for client in clients:
            client.close()
        policy.gate.set()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Each connection has a file at both ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 4 * CONNECTIONS), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_thousand_connections_that_say_nothing_half_or_all_are_in_nobodys_way(many_files: None) -> None:
    head = request(GOOD)[:40]
    stalled = request(GOOD[:5], length=len(GOOD))
    async with unharmed(patience_s=3.0) as app:
        clients = [silent(app.state.port, (b"", head, stalled)[index % 3]) for index in range(CONNECTIONS)]
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{app.state.port}", timeout=TIMEOUT_S) as http:
            assert (await http.post(PATH, json=chat())).status_code == 200
        await until(lambda: is_idle(app), pause_s=0.05)  # the server has closed them all
        for client in clients:
            client.close()


async def test_a_thousand_requests_at_once_are_each_answered_or_refused(many_files: None) -> None:
    async with unharmed(patience_s=TIMEOUT_S) as app:
        answers = await asyncio.gather(*(said(app.state.port, request(GOOD)) for _ in range(CONNECTIONS)))
    statuses = [int(answer.split()[1]) for answer in answers]
    assert set(statuses) <= {200, 429} and statuses.count(200) >= 4
    for answer, status in zip(answers, statuses, strict=True):
        if status == 429:
            assert read(answer)[1]["code"] == "rate_limit_exceeded" and b"retry-after: " in answer
