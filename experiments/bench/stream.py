"""One trajectory of 200,000 tokens through the streaming PRM: does its cost per token, or its memory, grow?"""

import time
from collections.abc import Callable
from statistics import median

import psutil
import torch

from experiments.bench.core import Measured
from experiments.bench.tiny import VERIFIER
from experiments.training.memory import keep_freed_memory
from verifiers import NoOptions
from verifiers.contract import HostSettings, Read, Run
from verifiers.streaming import StreamingHost

NUM_TOKENS, STEP = 200_000, 64
SEGMENTS = 10


async def measure(*, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    keep_freed_memory()
    torch.set_num_threads(VERIFIER.num_cpus)
    torch.manual_seed(0)
    settings = HostSettings(
        name="streaming_prm", model=VERIFIER.model, options=NoOptions(), slots=2, batch_tokens=VERIFIER.batch_tokens
    )
    host = StreamingHost.load(settings)
    ratios, grown, costs = [], [], []
    for repeat in range(repeats):
        per_token, memory = _stream(host)
        ratios.append(per_token[-1] / per_token[0])
        grown.append(memory)
        costs.append(per_token)
        on_repeat(
            f"{repeat + 1}/{repeats} last over first tenth: {ratios[-1]:.3g}, memory grown {memory / 2**20:.1f} MiB"
        )
    return Measured(
        ratio=median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        baseline="the first tenth of the same trajectory; seconds per token of its last tenth",
        goal="1, and no memory grown",
        settings={"tokens": NUM_TOKENS, "step": STEP, "repeats": repeats},
        details={
            "us_per_token_by_tenth": [1e6 * median(column) for column in zip(*costs, strict=True)],
            "memory_grown_bytes": grown,
            "state_bytes": host.info.state_bytes,
        },
    )


def _stream(host: StreamingHost) -> tuple[list[float], int]:
    """Seconds per token of each tenth (the median of its steps), and bytes that the process grew after the first."""
    process = psutil.Process()
    tokens = torch.randint(0, host.model.config.vocab_size, (NUM_TOKENS,)).tolist()
    seconds: list[float] = []
    resident = 0
    for start in range(0, NUM_TOKENS, STEP):
        piece = tuple(tokens[start : start + STEP])
        run = Run(
            key=f"{start + STEP}",
            token_ids=piece,
            boundaries=(len(piece),),
            parent=f"{start}" if start else None,
            parent_tokens=start,
            keep_parent=False,
        )
        began = time.perf_counter()
        [answer] = host.read([run])
        seconds.append((time.perf_counter() - began) / len(piece))
        assert isinstance(answer, Read)
        if len(seconds) == NUM_TOKENS // STEP // SEGMENTS:
            resident = process.memory_info().rss
    host.release([run.key])
    size = len(seconds) // SEGMENTS
    tenths = [median(seconds[i * size : (i + 1) * size]) for i in range(SEGMENTS)]
    return tenths, process.memory_info().rss - resident
