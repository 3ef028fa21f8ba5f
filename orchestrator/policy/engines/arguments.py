"""Which arguments of an engine a user may pass through."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.core.errors import UserError

OWN = {  # vLLM's name -> what to set instead; "": nothing, Headrace needs it as it is
    "model": "policy.model",
    "tokenizer": "policy.model",
    "dtype": "policy.dtype",
    "max_model_len": "policy.max_model_len",
    "max_num_seqs": "policy.max_num_seqs",
    "tensor_parallel_size": "policy.tensor_parallel_size",
    "block_size": "policy.block_size",
    "gpu_memory_utilization": "policy.gpu_memory_utilization",
    "kv_cache_memory_bytes": "policy.kv_cache_gib",
    "seed": "seeds",
    "served_model_name": "policy.model",
    "reasoning_parser": "policy.thinking",
    "enable_prefix_caching": "",
    "disable_log_stats": "",
    "skip_tokenizer_init": "",
    "use_tqdm_on_load": "",
}


def check_owned(given: Mapping[str, Any]) -> None:
    """Raises UserError for an argument that has a setting of its own, or may not be set."""
    for name in given:
        if name in OWN:
            instead = f"wanted {OWN[name]} instead" if OWN[name] else "Headrace needs it as it is"
            raise UserError(f"policy.engine_args: {name} can't be set here: {instead}")


def check_names(given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises UserError for an argument that the engine does not know, with the nearest one that it does."""
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise UserError(f"policy.engine_args: vLLM knows no {name!r}{hint}")
