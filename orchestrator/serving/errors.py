"""Errors as the OpenAI API words them: `{"error": {"message", "type", "param", "code"}}` under the right status."""

from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import HeadraceError


@dataclass(eq=False)
class ApiError(HeadraceError):
    """What a client is told. `retry` False asks OpenAI's clients not to repeat the request by themselves."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry: bool = True
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry else {"x-should-retry": "false"}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return headers


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def too_large(max_body_bytes: int) -> ApiError:
    return ApiError(413, f"the request body must have at most {max_body_bytes} bytes", code="request_too_large")


def wrong_key(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


def not_permitted(message: str, *, param: str) -> ApiError:
    return ApiError(403, message, type="permission_error", param=param, code="not_permitted")


def over_limit(message: str, *, retry_after_s: int) -> ApiError:
    return ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", retry_after_s=retry_after_s)


def busy(max_concurrent: int, max_queued: int) -> ApiError:
    return over_limit(
        f"{max_concurrent} searches are in progress and {max_queued} requests wait, which is the most that this "
        "server takes",
        retry_after_s=1,
    )


def queued_too_long(timeout_s: float) -> ApiError:
    return over_limit(f"no search could begin within {timeout_s:g} s", retry_after_s=1)


def client_left() -> ApiError:
    """Nobody reads it; the counts of requests do."""
    return ApiError(499, "the client has left")


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, type="server_error", code="service_unavailable", retry_after_s=1)


def stopping() -> ApiError:
    return unavailable("the server is stopping")


def timed_out(timeout_s: float) -> ApiError:
    return ApiError(504, f"no answer after {timeout_s:g} s", type="server_error", code="timeout", retry=False)


def internal() -> ApiError:
    return ApiError(
        500, "internal error; the server's log says more", type="server_error", code="internal_error", retry=False
    )
