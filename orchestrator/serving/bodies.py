"""The bodies of requests: bounded in size, time and number, so that one that stalls is in nobody's way."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from orchestrator.serving.config import Limits
from orchestrator.serving.errors import ApiError, too_large

_MAX_ARRIVING = 256  # each may be held in memory as far as it has come; a whole one takes milliseconds to arrive


class Bodies:
    """Owner of the bodies that are arriving. One too many, and the one that has taken longest is given up."""

    def __init__(self, limits: Limits, max_arriving: int = _MAX_ARRIVING) -> None:
        self._limits = limits
        self._max_arriving = max_arriving
        self._arriving: dict[asyncio.Timeout, None] = {}  # oldest first

    async def read(self, request: Request) -> bytes:
        """The whole body. Raises ApiError; a type that a web page can't send unasked is demanded."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "content-type must be application/json")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.max_body_bytes:
            raise too_large(self._limits.max_body_bytes)
        late = asyncio.timeout(self._limits.body_timeout_s)
        try:
            async with late:
                self._make_room()
                self._arriving[late] = None
                return await self._collected(request)
        except ClientDisconnect:
            raise ApiError(400, "the request body was cut off") from None
        except TimeoutError:
            message = f"the request body did not arrive within {self._limits.body_timeout_s:g} s, or others needed room"
            raise ApiError(408, message, retry=False) from None
        finally:
            self._arriving.pop(late, None)

    async def _collected(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._limits.max_body_bytes:
                raise too_large(self._limits.max_body_bytes)
        return bytes(body)

    def _make_room(self) -> None:
        if len(self._arriving) >= self._max_arriving:
            oldest = next(iter(self._arriving))
            del self._arriving[oldest]
            if not oldest.expired():
                oldest.reschedule(0)  # now
