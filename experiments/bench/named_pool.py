"""A named pool for a benchmark: `headrace up` starts it, `headrace down` ends it, and one may look at it meanwhile."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from orchestrator.core.config import PolicyConfig, VerifierConfig
from orchestrator.core.errors import ReplicaError
from orchestrator.pools.service import pool_actor
from orchestrator.pools.status import ReplicaRow
from orchestrator.ray_calls import answered, submit

_HEADRACE = str(Path(sys.executable).with_name("headrace"))
_WITHIN_S = 600.0
_GRACE_S = 60.0  # for a command that is interrupted to undo what it began
_ANSWER_S = 30.0
_LOOK_S = 0.05  # between two looks


@asynccontextmanager
async def named_pool(policy: PolicyConfig, verifier: VerifierConfig) -> AsyncIterator[str]:
    """Its name; it serves."""
    name = f"bench-{os.getpid()}"
    with TemporaryDirectory() as folder:
        config = Path(folder) / "pool.yaml"
        config.write_text(OmegaConf.to_yaml(OmegaConf.create({"name": name, "policy": policy, "verifier": verifier})))
        try:
            await _run("up", str(config))
        except BaseException:
            with suppress(ReplicaError):  # it had undone all, as it does unless it hung
                await _run("down", name)
            raise
        try:
            yield name
        finally:
            await _run("down", name)


async def _run(*command: str) -> None:
    """Raises ReplicaError for a command that fails, or does not end: it is ended then."""
    process = await asyncio.create_subprocess_exec(_HEADRACE, *command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(_WITHIN_S):
            code = await process.wait()
    except TimeoutError:
        raise ReplicaError(f"bench: headrace {command[0]} did not end within {_WITHIN_S:g} s") from None
    finally:
        if process.returncode is None:
            await _end(process)
    if code:
        raise ReplicaError(f"bench: headrace {' '.join(command)} ended with code {code}")


async def _end(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


class PoolWatch:
    """Looks at a named pool on the Ray that this process is connected to."""

    def __init__(self, name: str) -> None:
        """Raises ReplicaError where there is none."""
        self._who = f"pool {name}: its keeper"
        self._keeper: Any = pool_actor(name)
        if self._keeper is None:
            raise ReplicaError(f"bench: there is no pool {name!r}")

    async def rows(self) -> list[ReplicaRow]:
        rows, _ = await answered(submit(lambda: self._keeper.status.remote()), self._who, _ANSWER_S)
        return list(rows)

    async def seconds_until(self, condition: Callable[[list[ReplicaRow]], bool], within_s: float) -> float:
        """Seconds from now until the rows are so. Raises ReplicaError where they are not within the time."""
        began = time.monotonic()
        while not condition(rows := await self.rows()):
            if time.monotonic() - began > within_s:
                raise ReplicaError(f"bench: what was waited for did not come within {within_s:g} s: {rows}")
            await asyncio.sleep(_LOOK_S)
        return time.monotonic() - began


def idle(rows: list[ReplicaRow]) -> bool:
    """Whether no replica holds anything for anybody."""
    return not any(row.running or row.waiting or row.reserved or row.states for row in rows)
