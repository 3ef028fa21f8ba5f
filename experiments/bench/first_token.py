"""The process that `headrace bench attach` times: it opens the tiny pair and has one token written and one text scored.

python -m experiments.bench.first_token [POOL]
"""

import asyncio
import sys
from contextlib import AsyncExitStack, aclosing

from experiments.bench.tiny import TINY, VERIFIER
from orchestrator.cluster import connected
from orchestrator.core.config import RayConfig
from orchestrator.core.protocols import Generation, ScoreRequest
from orchestrator.pools.open import open_pools
from orchestrator.pools.record import ray_of
from orchestrator.verifier.resolve import resolve

FIRST = "first token"


async def write_one(pool: str | None) -> None:
    with connected(ray_of(pool, RayConfig()), replicas=2):
        async with AsyncExitStack() as stack:
            policy, verifier = await open_pools(
                stack, policy=TINY.policy, steps=TINY.steps, verifier=resolve(VERIFIER), pool=pool
            )
            assert verifier is not None
            [prompt] = await policy.encode(TINY.problems(1, 0))
            request = Generation(prefix_ids=prompt, max_tokens=1, seed=0, temperature=1.0, top_p=1.0)
            async with aclosing(policy.generate([request])) as segments:
                async for _ in segments:
                    pass
            print(FIRST, flush=True)
            await verifier.score([ScoreRequest(token_ids=prompt, boundaries=(len(prompt),))])


if __name__ == "__main__":
    asyncio.run(write_one(sys.argv[1] if len(sys.argv) > 1 else None))
