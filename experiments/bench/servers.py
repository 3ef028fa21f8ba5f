"""OpenAI-compatible servers as processes of their own, for benchmarks that ask them."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count

import aiohttp

from experiments.bench.tiny import TINY
from experiments.config import PROJECT_ROOT
from orchestrator.core.errors import ReplicaError

_HEADRACE = "from experiments.cli import main; main()"
_START_S = 600.0
_END_S = 60.0
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server that answers."""

    url: str  # without a path
    pid: int

    @property
    def chat(self) -> str:
        return f"{self.url}/v1/chat/completions"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def vllm_endpoint() -> AsyncIterator[Endpoint]:
    """vLLM's own server of the tiny policy."""
    port = _free_port()
    command = ("-m", "experiments.bench.vllm_server", TINY.policy.model, str(port))
    async with _server(command, port) as endpoint:
        yield endpoint


@asynccontextmanager
async def headrace_endpoint(clients: int) -> AsyncIterator[Endpoint]:
    """`headrace serve` of the tiny pair, with room for so many clients."""
    port = _free_port()
    config = str(PROJECT_ROOT / "configs" / "serve.yaml")
    overrides = (f"port={port}", f"limits.max_concurrent={2 * clients}", "limits.timeout_s=300")
    async with _server(("-c", _HEADRACE, "serve", config, *overrides), port) as endpoint:
        yield endpoint


@asynccontextmanager
async def _server(arguments: Sequence[str], port: int) -> AsyncIterator[Endpoint]:
    """A process that answers at its port. Raises ReplicaError for one that does not."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL)
    endpoint = Endpoint(url=f"http://127.0.0.1:{port}", pid=process.pid)
    try:
        async with aiohttp.ClientSession() as session:
            await asyncio.wait_for(_ready(process, session, f"{endpoint.url}/health"), _START_S)
        yield endpoint
    except TimeoutError:
        raise ReplicaError(f"bench: a server at port {port} did not serve within {_START_S:g} s") from None
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _END_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _ready(process: asyncio.subprocess.Process, session: aiohttp.ClientSession, url: str) -> None:
    for _ in count():
        if process.returncode is not None:
            raise ReplicaError(f"bench: a server ended with code {process.returncode}")
        with suppress(aiohttp.ClientError):
            async with session.get(url) as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(_LOOK_S)
