"""What scoring one more step costs as a trajectory grows: carried state, prefix read again, transformer with KV cache.

The transformer is a Llama of about the PRM's size with a value head, random weights, in transformers: its KV cache is
allocated at the size that it needs, so that a step copies nothing. The shipped PRM first, then one of mamba2-130m's
sizes with random weights: there arithmetic outweighs what a pass costs before its first token. One thread, and freed
memory is kept, as in a replica by default.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from statistics import median

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, StaticCache

from experiments.bench.core import Measured, interleave, ratio_of, spread
from experiments.bench.tiny import VERIFIER
from experiments.training.memory import keep_freed_memory
from verifiers.contract import Read, Run
from verifiers.streaming import StreamingHost
from verifiers.streaming_prm import PRMConfig, StreamingPRM

STEP = 32  # tokens
PREFIXES = (64, 256, 1024, 2048, 4096, 16384)
AT = 2048  # the prefix of the promise
BATCHES = (1, 4, 16, 64, 256)
LARGE = PRMConfig(  # mamba2-130m's sizes, but for its vocabulary
    vocab_size=1024, width=768, num_layers=24, mlp_width=0, inner=1536, head_dim=64, state_dim=128, conv_len=4
)
_PASSES = 8  # steps per figure, where a step is short
_PREFILL = 1024  # tokens of the transformer's prompt at a time


class CarriedState:
    """A streaming PRM with the states after all prefixes at hand."""

    def __init__(self, prm: StreamingPRM, prefixes: Sequence[int], max_batch: int) -> None:
        slots = len(prefixes) + max_batch
        self._prefixes = prefixes
        self._host = StreamingHost(
            "streaming_prm", prm, slots=slots, host_slots=0, batch_tokens=VERIFIER.batch_tokens, device="cpu"
        )
        self._texts = {length: _tokens(length + STEP, prm.config.vocab_size) for length in prefixes}
        self._names = (f"step {number}" for number in count())
        self.state_bytes = self._host.info.state_bytes
        self.num_parameters = sum(parameter.numel() for parameter in prm.parameters())
        for length in prefixes:
            self._read([Run(key=f"prefix {length}", token_ids=self._texts[length][:length])])

    def step(self, length: int) -> float:
        """Seconds for one step after a prefix of `length` tokens."""
        return median(self._timed([self._step(length)]) for _ in range(_PASSES))

    def again(self, length: int) -> float:
        """Seconds for the same score without a carried state."""
        text = self._texts[length]
        return self._timed([Run(key=next(self._names), token_ids=text, boundaries=(len(text),))])

    def batch(self, size: int) -> float:
        """Tokens per second over `size` steps at once."""
        return size * STEP / median(self._timed([self._step(self._prefixes[0]) for _ in range(size)]) for _ in range(3))

    def _step(self, length: int) -> Run:
        return Run(
            key=next(self._names),
            token_ids=self._texts[length][length:],
            boundaries=(STEP,),
            parent=f"prefix {length}",
            parent_tokens=length,
        )

    def _timed(self, runs: Sequence[Run]) -> float:
        began = time.perf_counter()
        self._read(runs)
        seconds = time.perf_counter() - began
        self._host.release([run.key for run in runs])
        return seconds

    def _read(self, runs: Sequence[Run]) -> None:
        assert all(isinstance(answer, Read) for answer in self._host.read(runs))


class CachedTransformer:
    """A Llama with a value head and a KV cache after each prefix."""

    def __init__(self, num_parameters: int, *, width: int, vocab_size: int, prefixes: Sequence[int]) -> None:
        mlp_width = 11 * width // 4
        per_layer = 4 * width * width + 3 * width * mlp_width
        layers = round((num_parameters - vocab_size * width) / per_layer)
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=mlp_width,
            num_hidden_layers=layers,
            num_attention_heads=max(4, width // 64),
            max_position_embeddings=2 * max(prefixes),
        )
        self._model = LlamaModel(config).eval()
        self._head = nn.Linear(width, 1)
        self.num_parameters = sum(parameter.numel() for parameter in self._model.parameters())
        self.bytes_per_token = 2 * layers * width * 4
        self._texts = {length: torch.tensor([_tokens(length + STEP, vocab_size)]) for length in prefixes}
        self._caches = {length: self._filled(config, length) for length in prefixes}

    def step(self, length: int) -> float:
        """Seconds for one step after a prefix of `length` tokens."""
        seconds = []
        for _ in range(_PASSES):
            began = time.perf_counter()
            self.score(length)
            seconds.append(time.perf_counter() - began)
        return median(seconds)

    @torch.inference_mode()
    def score(self, length: int) -> float:
        """Of one step after a prefix of `length` tokens, which the cache then forgets."""
        cache = self._caches[length]
        hidden = self._model(input_ids=self._texts[length][:, length:], past_key_values=cache, use_cache=True)
        for layer in cache.layers:
            layer.cumulative_length.sub_(STEP)
        return self._judged(hidden.last_hidden_state)

    @torch.inference_mode()
    def score_of_whole(self, length: int) -> float:
        """The same without a cache."""
        return self._judged(self._model(input_ids=self._texts[length], use_cache=False).last_hidden_state)

    def _judged(self, hidden: torch.Tensor) -> float:
        return float(self._head(hidden[:, -1]).sigmoid().item())

    @torch.inference_mode()
    def _filled(self, config: LlamaConfig, length: int) -> StaticCache:
        cache = StaticCache(config=config, max_cache_len=length + STEP)
        for start in range(0, length, _PREFILL):
            piece = self._texts[length][:, start : min(length, start + _PREFILL)]
            self._model(input_ids=piece, past_key_values=cache, use_cache=True)
        return cache


class _Kinds:
    """The three ways for one size of PRM."""

    def __init__(self, prm: StreamingPRM, prefixes: Sequence[int], max_batch: int) -> None:
        self.ours = CarriedState(prm, prefixes, max_batch)
        sizes = {"width": prm.config.width, "vocab_size": prm.config.vocab_size}
        self.transformer = CachedTransformer(self.ours.num_parameters, prefixes=prefixes, **sizes)
        self.steps: dict[str, Callable[[int], float]] = {
            "carried state": self.ours.step,
            "prefix again": self.ours.again,
            "KV cache": self.transformer.step,
        }

    @property
    def num_parameters(self) -> dict[str, int]:
        return {"carried state": self.ours.num_parameters, "KV cache": self.transformer.num_parameters}

    def bytes_per_trajectory(self, prefixes: Sequence[int]) -> dict[str, object]:
        state, token = self.ours.state_bytes, self.transformer.bytes_per_token
        return {
            "carried state": state,
            "KV cache": {length: length * token for length in prefixes},
            "KV cache is larger from tokens": state // token + 1,
        }


async def measure(*, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    keep_freed_memory()
    torch.set_num_threads(VERIFIER.num_cpus)
    torch.manual_seed(0)
    tiny = _Kinds(StreamingPRM.from_pretrained(VERIFIER.model), PREFIXES, max(BATCHES))
    large = _Kinds(StreamingPRM(LARGE).eval(), (AT,), 1)

    async def run(figure: Callable[[int], float], argument: int, _: int) -> float:
        return figure(argument)

    variants = {
        f"{kind} {length}": partial(run, step, length) for kind, step in tiny.steps.items() for length in PREFIXES
    }
    variants |= {f"batch {size}": partial(run, tiny.ours.batch, size) for size in BATCHES}
    variants |= {f"large, {kind}": partial(run, step, AT) for kind, step in large.steps.items()}
    figures = await interleave(repeats, variants, on_repeat)
    carried = [figures[f"carried state {length}"] for length in PREFIXES]
    return Measured(
        **ratio_of(figures[f"prefix again {AT}"], figures[f"carried state {AT}"]),
        baseline=f"the same PRM reading the whole prefix of {AT} tokens again; seconds for a step of {STEP} tokens",
        goal=">= 40; and flat within 20%",
        settings={"step": STEP, "prefixes": PREFIXES, "repeats": repeats, "threads": VERIFIER.num_cpus},
        details={
            "ms_per_step": {
                kind: {length: _in_ms(figures[f"{kind} {length}"]) for length in PREFIXES} for kind in tiny.steps
            },
            "slowest_over_fastest_prefix": max(_medians(carried)) / min(_medians(carried)),
            "kv_cache_over_carried_state": {
                length: ratio_of(figures[f"KV cache {length}"], figures[f"carried state {length}"])
                for length in PREFIXES
            },
            "bytes_per_trajectory": tiny.bytes_per_trajectory(PREFIXES),
            "parameters": tiny.num_parameters,
            "tokens_per_s_by_batch": {size: spread(figures[f"batch {size}"]) for size in BATCHES},
            "large": {
                "prefix": AT,
                "ms_per_step": {kind: _in_ms(figures[f"large, {kind}"]) for kind in large.steps},
                "prefix_again_over_carried_state": ratio_of(
                    figures["large, prefix again"], figures["large, carried state"]
                ),
                "kv_cache_over_carried_state": ratio_of(figures["large, KV cache"], figures["large, carried state"]),
                "bytes_per_trajectory": large.bytes_per_trajectory((AT,)),
                "parameters": large.num_parameters,
            },
        },
    )


def _in_ms(seconds: Sequence[float]) -> dict[str, float]:
    return spread([1000 * value for value in seconds])


def _medians(figures: Sequence[Sequence[float]]) -> Iterator[float]:
    return (spread(values)["median"] for values in figures)


def _tokens(length: int, vocab_size: int) -> tuple[int, ...]:
    return tuple(torch.randint(0, vocab_size, (length,)).tolist())
