"""What all that talks to OpenAI-compatible servers has in common: keys, clients, and what an error says.

A key stands in the environment, and never in a configuration, a log or a result.
"""

import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import NotHere, ProblemError, ReplicaError, UserError

if TYPE_CHECKING:
    import openai

RETRIES = 3  # by a client: of what it could not send, 408, 409, 429 and 5xx, waiting longer each time
CONNECT_S = 10.0
MOST_SEED = 2**31  # servers take no larger ones, or not all do


def api_key(variable: str | None, setting: str) -> str | None:
    """The key that the setting names a variable for. Raises NotHere where the environment does not hold it."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise NotHere(f"{setting}: the environment variable {variable} is not set")
    return key


def open_client(url: str, key: str | None, timeout_s: float) -> "openai.AsyncOpenAI":
    """Waits `timeout_s` for each answer, or for the next part of one. Whoever opens it closes it."""
    import openai  # takes seconds

    return openai.AsyncOpenAI(
        base_url=url,
        api_key=key or "none",  # the client insists on one; servers that want none ignore it
        timeout=openai.Timeout(timeout_s, connect=CONNECT_S),
        max_retries=RETRIES,
    )


def one_line(error: Exception) -> str:
    """What a client's error says."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def as_response_format(json_schema: str | None) -> dict[str, Any] | None:
    """As OpenAI's API and vLLM's server have it."""
    if json_schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(json_schema)}}


class ServerFailed(ReplicaError):
    """A server answered a request with 500, time after time: it fails, or the request is one on which it does."""


async def post(client: "openai.AsyncOpenAI", who: str, body: Mapping[str, Any], *, stream: bool) -> Any:
    """The answer of `/v1/completions`, or its stream, to a request. `who` is the server, in errors. Raises ProblemError
    and UserError for what the server refuses, ServerFailed and other ReplicaErrors where it has no answer."""
    import openai

    create: Any = client.completions.create
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    try:
        return await create(**body, **options)
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        raise ProblemError(f"{who} refuses a request: {one_line(error)}") from error
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise UserError(f"{who} refuses model {body['model']}: {one_line(error)}") from error
    except openai.OpenAIError as error:
        failed = isinstance(error, openai.InternalServerError) and error.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
        raise (ServerFailed if failed else ReplicaError)(f"{who}: {one_line(error)}") from error
