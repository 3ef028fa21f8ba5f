"""Facts about bodies that arrive slowly, or never."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.types import Message

from orchestrator.serving.bodies import Bodies
from orchestrator.serving.config import Limits
from orchestrator.serving.errors import ApiError


class Upload:
    """A body of which parts arrive as the test says."""

    def __init__(self, content_type: str = "application/json") -> None:
        self.parts: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "http", "headers": [(b"content-type", content_type.encode())]}
        self.request = Request(scope, self.parts.get)

    def part(self, body: bytes, *, last: bool = False) -> None:
        self.parts.put_nowait({"type": "http.request", "body": body, "more_body": not last})

    def leave(self) -> None:
        self.parts.put_nowait({"type": "http.disconnect"})


async def status(reading: "asyncio.Task[bytes]") -> int:
    with pytest.raises(ApiError) as caught:
        await reading
    return caught.value.status


async def test_a_body_that_stalls_is_408() -> None:
    upload = Upload()
    upload.part(b"{")
    assert await status(asyncio.create_task(Bodies(Limits(body_timeout_s=0.01)).read(upload.request))) == 408


async def test_a_client_that_leaves_in_the_middle_is_400() -> None:
    upload = Upload()
    upload.part(b"{")
    upload.leave()
    assert await status(asyncio.create_task(Bodies(Limits()).read(upload.request))) == 400


async def test_where_too_many_stall_the_oldest_gives_way_and_a_whole_one_is_read() -> None:
    bodies = Bodies(Limits(), max_arriving=3)
    stalled = [Upload() for _ in range(5)]
    readings = []
    for upload in stalled:
        readings.append(asyncio.create_task(bodies.read(upload.request)))
        await asyncio.sleep(0)  # in this order
    whole = Upload()
    whole.part(b"{", last=False)
    whole.part(b"}", last=True)
    assert await bodies.read(whole.request) == b"{}"
    assert [await status(reading) for reading in readings[:3]] == [408, 408, 408]
    for upload, reading in zip(stalled[3:], readings[3:], strict=True):
        assert not reading.done()
        upload.part(b"late", last=True)
        assert await reading == b"late"


@pytest.mark.parametrize("sent", [lambda u: u.part(b"x" * 11), lambda u: [u.part(b"x" * 6), u.part(b"x" * 6)]])
async def test_a_body_over_the_cap_is_413_before_it_ends(sent: Callable[[Upload], object]) -> None:
    upload = Upload()
    sent(upload)
    assert await status(asyncio.create_task(Bodies(Limits(max_body_bytes=10)).read(upload.request))) == 413
