"""What a server that somebody else runs serves: found out by a few requests, before any other is sent."""

import logging
import math
import re
from contextlib import suppress
from typing import Any

import httpx
import openai

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import HeadraceError, ProblemError, ReplicaError, UserError
from orchestrator.core.fingerprint import tokenizer_fingerprint
from orchestrator.core.flops import ModelShape, llama_shape
from orchestrator.policy.engines.clients import CONNECT_S, one_line, post
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.thinking import thinking_markers
from orchestrator.policy.tool_calls import tool_parser

log = logging.getLogger(__name__)

_PROBE = "1 + 1 = 2, und überall ist 12.345\n\n{x^2}"  # digits, spaces, newlines, letters beyond ASCII
_CACHE = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_CACHE_SIZES = (re.compile(r'\bblock_size="(\d+)"'), re.compile(r'\bnum_gpu_blocks="(\d+)"'))


async def examined(config: PolicyConfig, url: str, client: openai.AsyncOpenAI, tokenizer: Any) -> PolicyInfo:
    """`tokenizer` is of transformers. Raises UserError where the server has not this policy, or gives no token ids,
    ReplicaError where it does not answer."""
    who = f"policy: {url}"
    try:
        served = {model.id: model async for model in client.models.list()}
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise UserError(f"{who} refuses the key: {one_line(error)}") from error
    except openai.OpenAIError as error:
        raise ReplicaError(f"{who} does not answer: {one_line(error)}") from error
    if config.model not in served:
        names = ", ".join(sorted(served)) or "none"
        raise UserError(f"policy.model: {url} serves {names}, got {config.model}")
    context = config.max_model_len or (served[config.model].model_extra or {}).get("max_model_len")
    if not isinstance(context, int):
        raise UserError(f"policy.max_model_len: {url} does not tell how long its context is; wanted it here")
    await _check_tokens(config, url, client, tokenizer)
    return PolicyInfo(
        context_length=context,
        shape=_shape(config, url),
        fingerprint=tokenizer_fingerprint(tokenizer.get_vocab()),
        kv_capacity_tokens=await _capacity(url) or context * config.max_num_seqs,
        max_num_seqs=config.max_num_seqs,
        thinking=thinking_markers(config.thinking, tokenizer),
        tool_parser=tool_parser(config.tool_parser, tokenizer),
    )


async def writes(client: openai.AsyncOpenAI, who: str, model: str) -> bool:
    """Whether a server answers a small request."""
    try:
        await post(client, who, _probe(model), stream=False)
    except HeadraceError:
        return False
    return True


def _probe(model: str) -> dict[str, Any]:
    body = {"model": model, "prompt": _PROBE, "max_tokens": 1, "temperature": 0.0}
    return {**body, "extra_body": {"return_token_ids": True}}


async def _check_tokens(config: PolicyConfig, url: str, client: openai.AsyncOpenAI, tokenizer: Any) -> None:
    """Whether it takes and gives token ids, and reads a text as the tokenizer here does."""
    try:
        reply = await post(client, f"policy: {url}", _probe(config.model), stream=False)
    except ProblemError as error:
        raise UserError(f"{error}; wanted a server whose completions return token ids") from error
    extra = (reply.choices[0].model_extra or {}) if reply.choices else {}
    theirs = extra.get("prompt_token_ids")
    if not isinstance(theirs, list) or not isinstance(extra.get("token_ids"), list):
        raise UserError(
            f"policy: {url} returns no token ids, without which steps can't be told apart; wanted a server that "
            "knows return_token_ids, such as vLLM's"
        )
    ours = tokenizer(_PROBE)["input_ids"]
    if theirs != ours:
        raise UserError(
            f"policy.tokenizer: {config.tokenizer} is not the tokenizer of {config.model} at {url}: "
            f"a text of {len(_PROBE)} characters has the tokens {theirs[:8]}... there and {ours[:8]}... here"
        )


def _shape(config: PolicyConfig, url: str) -> ModelShape:
    """Of the tokenizer's folder, where that is a whole checkpoint; else as if a token cost nothing."""
    from transformers import AutoConfig

    if config.flops_per_token is not None:
        weights = round(config.flops_per_token / 2)
        return ModelShape(weights_per_token=weights, head_weights=0, num_layers=0, attention_width=0)
    try:
        return llama_shape(AutoConfig.from_pretrained(config.tokenizer).get_text_config().to_dict())
    except (OSError, ValueError, KeyError):
        log.warning(
            "policy: %s: FLOPs of %s are not known and not counted; wanted policy.flops_per_token, or config.json "
            "beside the tokenizer",
            url,
            config.model,
        )
        return ModelShape(weights_per_token=0, head_weights=0, num_layers=0, attention_width=0)


async def _capacity(url: str) -> int | None:
    """Tokens that the server's KV cache holds, where it tells that as vLLM does."""
    with suppress(httpx.HTTPError):
        root = re.sub(r"/v1/?$", "", url)
        async with httpx.AsyncClient(timeout=CONNECT_S) as client:
            metrics = await client.get(f"{root}/metrics")
        cache = _CACHE.search(metrics.text) if metrics.is_success else None
        sizes = [size.search(cache[1]) for size in _CACHE_SIZES] if cache is not None else []
        if sizes and all(sizes):
            return math.prod(int(size[1]) for size in sizes if size is not None)
    return None
