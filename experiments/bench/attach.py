"""What a named pool saves: from the start of a command to its first token, with models that it loads, and attached."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import OmegaConf

from experiments.bench.core import Measured, interleave, ratio_of, spread
from experiments.bench.first_token import FIRST
from experiments.bench.tiny import TINY, VERIFIER
from orchestrator.core.errors import ReplicaError

_HEADRACE = str(Path(sys.executable).with_name("headrace"))
_WITHIN_S = 600.0


async def measure(*, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    name = f"bench-{os.getpid()}"
    with TemporaryDirectory() as folder:
        config = Path(folder) / "pool.yaml"
        config.write_text(
            OmegaConf.to_yaml(OmegaConf.create({"name": name, "policy": TINY.policy, "verifier": VERIFIER}))
        )
        await _run(_HEADRACE, "up", str(config))
        try:
            seconds = await interleave(
                repeats, {"attached": lambda _: _first_token(name), "cold": lambda _: _first_token()}, on_repeat
            )
        finally:
            await _run(_HEADRACE, "down", name)
    return Measured(
        **ratio_of(seconds["cold"], seconds["attached"]),
        baseline="the same process that starts Ray, the policy and the verifier itself; seconds to the first token",
        goal=">= 8",
        settings={"policy": "tiny", "verifier": "tiny", "repeats": repeats},
        details={"seconds": {name: spread(values) for name, values in seconds.items()}},
    )


async def _first_token(*pool: str) -> float:
    """Seconds from the start of a process to its first token."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "experiments.bench.first_token", *pool, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_WITHIN_S):
            line = await process.stdout.readline()
            seconds = time.monotonic() - began
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    if line.decode().strip() != FIRST or code:
        raise ReplicaError(f"bench: a process that writes one token ended with code {code}")
    return seconds


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(_WITHIN_S):
        if code := await process.wait():
            raise ReplicaError(f"bench: {' '.join(command[1:])} ended with code {code}")
