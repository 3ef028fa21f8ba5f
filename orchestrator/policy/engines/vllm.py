"""vLLM's AsyncLLM as a `TokenEngine`. Import it only in the process that serves: torch and vLLM come along.

Prefix caching is on, tokens come as deltas and are never detokenized by the engine.

dtype `auto`: float32 for a checkpoint whose config says float32 (so that small models are exact); else on CUDA the
checkpoint's own; else, on a CPU, bfloat16 where the CPU computes it natively (AVX512_BF16 or AMX; elsewhere it is 5x
slower than float32) and float32 where not.
"""

import os
import re
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from typing import Any

from tokenizers import Tokenizer

from orchestrator.core.confidence import TokenConfidence, token_confidence
from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import HeadraceError, ProblemError, ReplicaError, UserError
from orchestrator.core.fingerprint import tokenizer_fingerprint
from orchestrator.core.flops import llama_shape
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Finish, Generation
from orchestrator.core.tools import CallingReply, Reply, Tools
from orchestrator.policy.engines.arguments import check_names
from orchestrator.policy.engines.chat_template import render
from orchestrator.policy.engines.contract import Delta, PolicyInfo
from orchestrator.policy.engines.shared_count import SharedCount
from orchestrator.policy.thinking import thinking_markers
from orchestrator.policy.tool_calls import read_calls, tool_parser

# Tokens per delta: each costs some 20 us.
_INTERVAL_EAGER, _INTERVAL_TO_THE_END = 4, 32  # of a sequence that runs to its end: its steps are waited for, or not
# The engine itself stops at a delimiter that is one token; one that spans two costs up to 7 tokens more.
_INTERVAL_TO_A_STEP = 8
_CPU_BLOCK_SIZE = 32  # the least that the CPU attention backend takes; a prefix is cached in whole blocks
_KEPT_SHARE = 1 / 8  # of the blocks of the KV cache: as many partly filled ones are kept beside it


def prepare_process(model: str, num_threads: int) -> None:
    """Sets the environment that vLLM reads on import. What the user set wins, thread counts aside."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if _verbose() else "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # `auto` pins every replica to the same cores
    os.environ["OMP_NUM_THREADS"] = str(num_threads)  # Ray set its own
    if os.path.isdir(model):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")


def engine_args(config: PolicyConfig, layers_done: str | None = None) -> Any:
    """vLLM's AsyncEngineArgs. Call `prepare_process` first. Raises UserError for a model that can't be read.

    `layers_done`: the file of a `SharedCount` of layers that the CPU build has computed; None: no KV connector.
    """
    from transformers import AutoConfig

    try:
        checkpoint_dtype = AutoConfig.from_pretrained(config.model).dtype  # fails early, before the long imports
    except (OSError, ValueError) as error:
        raise UserError(f"policy: {config.model} can't be read: {error}") from error

    from vllm.config import KVTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    on_cpu = current_platform.is_cpu()
    options: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization}
    if on_cpu:
        options = {
            "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30 / (1 + _KEPT_SHARE)),
            "enforce_eager": True,
            # vLLM 0.32 rewinds the generator of a seeded request after each chunk of its prompt but the last one;
            # a CPU generator can't be rewound, which kills the engine
            "enable_chunked_prefill": False,
        }
        if layers_done is not None:
            # what encodes a partly filled block in no time on a GPU, with its blocks of 16, takes a CPU half a step
            options["kv_transfer_config"] = KVTransferConfig(
                kv_connector="TailConnector",
                kv_connector_module_path="orchestrator.policy.engines.kv_connector",
                kv_connector_extra_config={"share": _KEPT_SHARE, "layers_done": layers_done},
                kv_role="kv_both",
            )
        if config.tensor_parallel_size == 1:
            # by default scheduler and model run in two processes that wait for each other in busy loops, which
            # takes a core from everything else; as a class, because by its name vLLM turns it back
            options["distributed_executor_backend"] = UniProcExecutor
    block_size = config.block_size or (_CPU_BLOCK_SIZE if on_cpu else None)
    if block_size is not None:
        options["block_size"] = block_size
    check_names(config.engine_args, [field.name for field in fields(AsyncEngineArgs)])
    options |= config.engine_args
    try:
        return AsyncEngineArgs(
            model=config.model,
            dtype=_dtype(config.dtype, checkpoint_dtype, on_cpu),
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            tensor_parallel_size=config.tensor_parallel_size,
            enable_prefix_caching=True,
            disable_log_stats=True,  # vLLM's default loggers; `VllmEngine` counts all the same
            use_tqdm_on_load=_verbose(),
            **options,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"policy.engine_args: vLLM refuses them: {error}") from error


class VllmEngine:
    """Implements `TokenEngine`. Owner of the engine and its processes."""

    @classmethod
    async def load(cls, config: PolicyConfig, *, index: int, num_threads: int) -> "VllmEngine":
        """Raises UserError for what can't be loaded, ReplicaError when the engine's process is killed meanwhile."""
        prepare_process(config.model, num_threads)
        return cls(config)

    def __init__(self, config: PolicyConfig) -> None:
        """Use `load`."""
        self._counters: Counter[str] = Counter()
        with tempfile.NamedTemporaryFile() as file:
            SharedCount.prepare(file)
            self._layers_done = SharedCount(file.name)
            args = engine_args(config, file.name)

            from vllm.envs import enable_envs_cache
            from vllm.v1.engine.async_llm import AsyncLLM

            try:
                self._llm = AsyncLLM.from_engine_args(args, stat_loggers=[_counting(self._counters)])
            except (NotImplementedError, TypeError, ValueError) as error:
                given = f" with engine_args {', '.join(config.engine_args)}" if config.engine_args else ""
                raise UserError(f"policy: {config.model} can't be loaded{given}: {error}") from error
            except RuntimeError as error:
                raise load_error(config.model, error) from error
        enable_envs_cache()  # as the engine's own process does: some are looked up at every token
        self._tokenizer = self._llm.get_tokenizer()
        self._thinking = thinking_markers(config.thinking, self._tokenizer)
        self._tool_parser = tool_parser(config.tool_parser, self._tokenizer)
        self._config = config

    @property
    def tokenizer(self) -> Tokenizer:
        tokenizer: Tokenizer = self._tokenizer.backend_tokenizer
        return tokenizer

    @property
    def context_length(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def num_running(self) -> int:
        return int(self._llm.get_num_unfinished_requests())

    def info(self) -> PolicyInfo:
        model, cache = self._llm.model_config, self._llm.vllm_config.cache_config
        shape = llama_shape(model.hf_text_config.to_dict())
        return PolicyInfo(
            context_length=self.context_length,
            shape=shape,
            fingerprint=tokenizer_fingerprint(self._tokenizer.get_vocab()),
            # one block is vLLM's own, and holds nothing
            kv_capacity_tokens=(cache.kv_cache_size_tokens or cache.num_gpu_blocks * cache.block_size)
            - cache.block_size,
            kv_block_tokens=cache.block_size,
            max_num_seqs=self._config.max_num_seqs,
            thinking=self._thinking,
            tool_parser=self._tool_parser,
        )

    @property
    def progress(self) -> int:
        """vLLM reports every step of its engine. On a CPU a step takes a whole prompt, so layers count there, too."""
        return self._counters["steps"] + self._layers_done.value

    def counters(self) -> dict[str, int]:
        """vLLM's own: what it prefilled, found cached, sampled and preempted."""
        names = ("prompt_tokens", "cached_tokens", "generated_tokens", "preemptions")
        return {name: self._counters[name] for name in names}

    async def abort(self, name: str) -> None:
        """vLLM counts no token that it samples after this."""
        await self._llm.abort(name)

    async def stream(
        self, name: str, generation: Generation, stop_token_ids: Sequence[int]
    ) -> AsyncGenerator[Delta, None]:
        """Tokens as they are sampled. Closing it aborts the request."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            params = SamplingParams(
                temperature=generation.temperature,
                top_p=generation.top_p,
                top_k=generation.top_k,
                min_p=generation.min_p,
                repetition_penalty=generation.repetition_penalty,
                seed=generation.seed,
                max_tokens=generation.max_tokens,
                stop_token_ids=list(stop_token_ids),
                logprobs=generation.logprobs,
                prompt_logprobs=generation.reads,
                flat_logprobs=True,  # where there are any: lists in place of a dictionary for each token
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
                structured_outputs=None
                if generation.json_schema is None
                else StructuredOutputsParams(json=generation.json_schema),
                stream_interval=_interval(generation, stop_token_ids),
                skip_clone=True,
            )
            prompt = tokens_input(list(generation.prefix_ids))
            async with aclosing(self._llm.generate(prompt, params, name)) as outputs:
                async for output in outputs:
                    [sampled] = output.outputs
                    if sampled.finish_reason == "error" and generation.json_schema is not None:
                        raise ProblemError("policy: the model has no tokens that go on as the JSON schema wants")
                    finish = _finish(sampled.finish_reason, sampled.stop_reason, stop_token_ids)
                    delta = Delta(sampled.token_ids, output.num_cached_tokens or 0, finish)
                    if generation.logprobs is not None:
                        logprobs, confidences = _told(sampled.logprobs)
                        delta = delta._replace(
                            logprobs=logprobs, confidences=confidences if generation.logprobs else None
                        )
                    if generation.words:
                        delta = delta._replace(likeliest=_likeliest(sampled.logprobs))
                    if output.prompt_logprobs:
                        delta = delta._replace(read=_likeliest(output.prompt_logprobs))
                    yield delta
        except VLLMClientError as error:
            raise ProblemError(f"policy: the engine refused a request: {error}") from error
        except EngineDeadError as error:
            raise ReplicaError("policy: the engine's process died") from error

    def render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        return render(self._tokenizer, messages, self._config, template)

    def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
        name = self.info().tool_parser
        assert name is not None, "no session asks without a parser"
        return read_calls(name, self._tokenizer, tools, replies)

    def check_schema(self, json_schema: str) -> None:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import StructuredOutputsParams

        model, structured = self._llm.model_config, self._llm.vllm_config.structured_outputs_config
        try:
            params = SamplingParams(structured_outputs=StructuredOutputsParams(json=json_schema))
            params.verify(model, None, structured, self._tokenizer)
        except (VLLMClientError, ValueError) as error:
            raise ProblemError(f"policy: the engine refuses the JSON schema: {error}") from error

    async def stop(self) -> None:
        self._llm.shutdown(timeout=5.0)


def _told(flat: Any) -> tuple[list[float], list[TokenConfidence]]:
    """Of vLLM's FlatLogprobs: at each position the sampled token comes first, then the likeliest ones, it among them
    or not."""
    spans = list(zip(flat.start_indices, flat.end_indices, strict=True))
    logprobs = [flat.logprobs[start] for start, _ in spans]
    return logprobs, [token_confidence(flat.logprobs[start + 1 : end]) for start, end in spans if end > start + 1]


def _likeliest(flat: Any) -> list[dict[int, float]]:
    """Of vLLM's FlatLogprobs, at each position."""
    return [
        dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        for start, end in zip(flat.start_indices, flat.end_indices, strict=True)
    ]


def _interval(generation: Generation, stop_token_ids: Sequence[int]) -> int:
    if generation.streams or generation.stop or (generation.until_step and not stop_token_ids):
        return 1  # only the host sees where it ends, or each token is shown
    if generation.until_step or generation.max_thinking is not None or generation.floor is not None:
        return _INTERVAL_TO_A_STEP
    return _INTERVAL_EAGER if generation.eager else _INTERVAL_TO_THE_END


def load_error(model: str, error: RuntimeError) -> HeadraceError:
    """What vLLM's error while it loads means: the user's mistake, unless a signal killed the engine's process.

    vLLM tells the exit codes of its processes in words only, and the reason in this process's log.
    """
    _, _, processes = str(error).partition("Failed core proc(s):")
    exit_codes = [int(code) for code in re.findall(r": (-?\d+)", processes)]
    if not exit_codes or not all(1 <= code <= 128 for code in exit_codes):
        return ReplicaError(f"policy: the engine could not start: {error}")
    log_file = os.path.realpath("/dev/fd/2")
    return UserError(f"policy: {model} can't be loaded: vLLM gave up, and says why at the end of {log_file}")


def _counting(counters: Counter[str]) -> Any:
    """A class of vLLM stat loggers that only add up, in place of its own, whose metrics nobody reads here."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class CountingLogger(PrometheusStatLogger):
        def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:
            pass

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            counters["steps"] += 1
            if iteration_stats is not None:
                counters["prompt_tokens"] += iteration_stats.prompt_token_stats.total
                counters["cached_tokens"] += iteration_stats.prompt_token_stats.cached_tokens
                counters["generated_tokens"] += iteration_stats.num_generation_tokens
                counters["preemptions"] += iteration_stats.num_preempted_reqs

        def log(self) -> None:
            pass

        def log_engine_initialized(self) -> None:
            pass

    return CountingLogger


def _verbose() -> bool:
    return os.environ.get("HEADRACE_VERBOSE", "") not in ("", "0")


def _dtype(asked: str, checkpoint: object, on_cpu: bool) -> str:
    """The rule of this module's docstring."""
    import torch

    if asked != "auto":
        return asked
    if checkpoint == torch.float32:
        return "float32"
    if not on_cpu:
        return "auto"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def _finish(reason: str | None, stopped_at: int | str | None, stop_token_ids: Sequence[int]) -> Finish | None:
    if reason is None:
        return None
    if reason == "length":
        return Finish.LENGTH
    if reason == "abort":
        return Finish.ABORTED
    if reason == "stop":
        return Finish.BOUNDARY if stopped_at in stop_token_ids else Finish.EOS
    raise ReplicaError(f"policy: the engine ended a request: got {reason!r}, wanted 'stop', 'length' or 'abort'")
