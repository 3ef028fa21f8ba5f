"""Serves a transformer that judges through vLLM's pooling. vLLM is imported in the process that serves, by `load`.

The engine's prefix cache, which vLLM does not read for pooling unless told to, holds what was read. Of cached tokens
there are no outputs: the scores read there are kept here, each under the tokens that lead up to it.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from orchestrator.core.checkpoints import read_checkpoint_config
from orchestrator.core.flops import ModelShape, llama_shape
from orchestrator.core.nouns import Score
from orchestrator.policy.engines.vllm import prepare_process
from verifiers.contract import Answer, HostSettings, Read, Run, StateBlob, Unreadable, VerifierInfo
from verifiers.formats import format_of
from verifiers.reward_models import checkpoint_hash, context_of
from verifiers.solution_reader import MarkedTokens, SolutionReader
from verifiers.transformer_options import SeparatorOptions

_CPU_BLOCK_SIZE = 32  # the least that the CPU attention backend takes; a prefix is cached in whole blocks
_QWEN = "Qwen2ForProcessRewardModel"  # whose head has a hidden layer
_MAX_SCORES = 2**16  # kept, each under the tokens before it: some KB


class Pooler(Protocol):
    """What the host needs of an engine."""

    shape: ModelShape

    def logits(self, prompts: Sequence[Sequence[int]], *, read_cache: bool) -> list[list[list[float]]]:
        """Of each prompt, for each token that was computed: the last ones, all of them without `read_cache`."""
        ...


class VllmPooler:
    """An engine in this process, with which it ends."""

    def __init__(self, model: str, *, words: Sequence[str], num_logits: int, kv_cache_gib: float, device: str) -> None:
        """`words`: tokens of a language model that are its classes; none: the checkpoint has a head. Raises ValueError
        when it can't be served."""
        prepare_process(model, torch.get_num_threads())
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            from vllm import LLM
            from vllm.config import PoolerConfig
            from vllm.v1.executor.uniproc_executor import UniProcExecutor
        except ImportError as error:
            raise ValueError(f"verifier.options: engine: vllm can't be imported: {error}") from error
        on_cpu = device == "cpu"
        options: dict[str, Any] = {"block_size": _CPU_BLOCK_SIZE, "enforce_eager": True} if on_cpu else {}
        try:
            self._llm = LLM(
                model=model,
                runner="pooling",
                dtype="float32" if on_cpu else "auto",
                # all tokens: which of them are marks is not for vLLM to say, and with STEP it caches no prefix
                pooler_config=PoolerConfig(task="token_classify", tok_pooling_type="ALL"),
                kv_cache_memory_bytes=int(kv_cache_gib * 2**30),
                enable_prefix_caching=True,
                hf_overrides=_classifying(model, words) if words else {},
                distributed_executor_backend=UniProcExecutor,
                use_tqdm_on_load=False,
                **options,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"verifier: vLLM can't serve {model}: {error}") from error
        config = self._llm.model_config.hf_text_config.to_dict()
        hidden = config["hidden_size"]
        hidden_layer = hidden * hidden if _QWEN in self._llm.model_config.architectures else 0
        self.shape = replace(llama_shape(config), head_weights=hidden_layer + num_logits * hidden)

    def logits(self, prompts: Sequence[Sequence[int]], *, read_cache: bool) -> list[list[list[float]]]:
        from vllm import PoolingParams

        outputs = self._llm.encode(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            PoolingParams(use_activation=False, skip_reading_prefix_cache=not read_cache),
            pooling_task="token_classify",
            use_tqdm=False,
        )
        return [output.outputs.data.float().tolist() for output in outputs]


def _classifying(model: str, words: Sequence[str]) -> dict[str, Any]:
    """What makes vLLM keep of a language model's head the rows of `words` only, and give their logits."""
    [architecture] = read_checkpoint_config(model, "verifier")["architectures"]
    return {
        "architectures": [architecture.replace("ForCausalLM", "ForSequenceClassification")],
        "classifier_from_token": list(words),
        "method": "no_post_processing",
    }


@dataclass(slots=True, kw_only=True)
class _Job:
    """A run on its way to its answer."""

    tokens: MarkedTokens
    prefixes: dict[int, bytes]  # the tokens up to each place
    scores: dict[int, float] = field(default_factory=dict)  # by place
    tokens_read: int = 0
    flops: float = 0.0

    @property
    def unknown(self) -> list[int]:
        return [place for place in self.tokens.asked if place not in self.scores]


class PoolingHost:
    """Owns the scores that an engine gave."""

    def __init__(
        self, name: str, pooler: Pooler, reader: SolutionReader, *, model_hash: str, max_scores: int = _MAX_SCORES
    ) -> None:
        self._pooler, self._reader, self._max_scores = pooler, reader, max_scores
        self._scores: OrderedDict[bytes, float] = (
            OrderedDict()
        )  # by the tokens up to a place, least recently used first
        self.info = VerifierInfo(
            name=name, model_hash=model_hash, tokenizer_fingerprint="", state_bytes=0, flops_per_token=0.0
        )

    @classmethod
    def load(cls, settings: HostSettings) -> "PoolingHost":
        """Raises ValueError when the checkpoint can't be served."""
        options = settings.options
        separator = {"separator": options.separator} if isinstance(options, SeparatorOptions) else {}
        format = format_of(settings.name, **separator)
        context_length, vocab_size = context_of(settings.model)
        reader = SolutionReader.load(settings.model, format, context_length=context_length, vocab_size=vocab_size)
        pooler = VllmPooler(
            settings.model,
            words=reader.words(),
            num_logits=format.num_logits,
            kv_cache_gib=options.kv_cache_gib,
            device=settings.device,
        )
        return cls(settings.name, pooler, reader, model_hash=checkpoint_hash(settings.model))

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        """Answers in the order of `runs`."""
        jobs = [self._job(run) for run in runs]
        for read_cache in (True, False):  # the second time for a score that was dropped while its tokens are cached
            self._compute([job for job in jobs if isinstance(job, _Job) and job.unknown], read_cache=read_cache)
        return [self._answer(job) if isinstance(job, _Job) else job for job in jobs]

    def release(self, keys: Sequence[str]) -> None:
        """Nothing: the engine drops what is used least."""

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        """Nothing: keys and values grow with the text, and are read again elsewhere."""
        return [None for _ in keys]

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        """Raises ValueError: no such state exists."""
        if any(blob is not None for blob in blobs):
            raise ValueError(f"verifier state refused: {self.info.name} carries none that moves")

    def _job(self, run: Run) -> _Job | Answer:
        """What to read, or the answer to a run that need not or can't be read."""
        assert run.solution is not None, "a verifier that reads text is given it"
        if not run.solution.asked:
            return Read(scores=(), tokens_read=0, flops=0.0)
        try:
            tokens = self._reader.read(run.solution)
        except ValueError as error:
            return Unreadable(reason=str(error))
        ids = np.array(tokens.ids, dtype=np.int32)
        job = _Job(tokens=tokens, prefixes={place: ids[: place + 1].tobytes() for place in tokens.places})
        for place, prefix in job.prefixes.items():
            if prefix in self._scores:
                self._scores.move_to_end(prefix)
                job.scores[place] = self._scores[prefix]
        return job

    def _compute(self, jobs: Sequence[_Job], *, read_cache: bool) -> None:
        """Reads the jobs up to the last place that is asked and unknown."""
        if not jobs:
            return
        prompts = [job.tokens.ids[: max(job.unknown) + 1] for job in jobs]
        for job, prompt, rows in zip(jobs, prompts, self._pooler.logits(prompts, read_cache=read_cache), strict=True):
            cached = len(prompt) - len(rows)
            for place, prefix in job.prefixes.items():
                if cached <= place < len(prompt):
                    job.scores[place] = self._scores[prefix] = self._reader.format.belief(rows[place - cached])
            job.tokens_read += len(rows)
            job.flops += self._pooler.shape.flops(new_tokens=len(rows), context_tokens=cached, logits=len(rows))
        while len(self._scores) > self._max_scores:
            self._scores.popitem(last=False)

    def _answer(self, job: _Job) -> Answer:
        scores = [job.scores[place] for place in job.tokens.asked]
        bad = next((score for score in scores if not np.isfinite(score)), None)
        if bad is not None:
            reason = f"the score is not a finite number ({bad})"
            return Unreadable(reason=reason, tokens_read=job.tokens_read, flops=job.flops)
        return Read(scores=tuple(Score(mean=score) for score in scores), tokens_read=job.tokens_read, flops=job.flops)
