"""What a named pool saves: from the start of a command to its first token, with models that it loads, and attached."""

import asyncio
import sys
import time
from collections.abc import Callable

from experiments.bench.core import Measured, interleave, ratio_of, spread
from experiments.bench.first_token import FIRST
from experiments.bench.named_pool import named_pool
from experiments.bench.tiny import TINY, VERIFIER
from orchestrator.core.errors import ReplicaError

_WITHIN_S = 600.0


async def measure(*, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    async with named_pool(TINY.policy, VERIFIER) as name:
        seconds = await interleave(
            repeats, {"attached": lambda _: _first_token(name), "cold": lambda _: _first_token()}, on_repeat
        )
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
            await process.wait()
    if line.decode().strip() != FIRST or code:
        raise ReplicaError(f"bench: a process that writes one token ended with code {code}")
    return seconds
