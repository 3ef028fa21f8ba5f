"""Lets a sequence go on from where another one stopped without encoding a token again.

vLLM's prefix cache holds whole blocks, so whatever continues a stopped sequence encodes its last, partly filled block
again: in PRM-guided search, once per child and step. Here that block is kept when a sequence ends and copied to what
continues it. It is a KV connector, the interface through which vLLM takes KV from elsewhere (its scheduler's half and
its worker's half are two objects, perhaps in two processes; the metadata of each engine step goes between them). As it
is called after each layer, it also counts them: the only sign of progress within a long step.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.v1.request import RequestStatus

from orchestrator.policy.engines.kv_tails import KeptTails
from orchestrator.policy.engines.shared_count import SharedCount


@dataclass
class TailCopies(KVConnectorMetadata):
    """What one engine step copies: blocks into slots before it writes any block, then slots into blocks."""

    keeps: dict[int, int] = field(default_factory=dict)  # slot -> block: of two for one slot the later one counts
    loads: list[tuple[int, int]] = field(default_factory=list)  # slot, block


class TailConnector(KVConnectorBase_V1):
    """Owner of the slots: of their index in the scheduler, of their tensors in the worker."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._block_size: int = vllm_config.cache_config.block_size
        share: float = self._kv_transfer_config.get_from_extra_config("share", None)  # slots per block of the cache
        self._num_slots = max(1, int(kv_cache_config.num_blocks * share))
        self._tails = KeptTails(self._num_slots)
        self._planned = TailCopies()
        self._found: dict[str, int] = {}  # slot for a request that is about to be placed
        self._layers_done = SharedCount(self._kv_transfer_config.get_from_extra_config("layers_done", None))
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []  # KV cache (blocks, ...), kept (slots, ...)

    # the scheduler's half

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        if request.skip_reading_prefix_cache:
            return 0, False  # every token is computed: its log-probability is wanted
        tokens = request.all_token_ids
        start = (len(tokens) - 1) // self._block_size * self._block_size  # the last token is always computed
        if num_computed_tokens != start:
            return 0, False  # blocks before it are missing, or it begins a block
        found = self._tails.longest(self._base(request, start), tokens[start : len(tokens) - 1])
        if found is None:
            return 0, False
        length, self._found[request.request_id] = found
        return length, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        slot = self._found.pop(request.request_id, None)
        if num_external_tokens and slot is not None:
            [block_ids] = blocks.get_block_ids()
            self._planned.loads.append((slot, block_ids[(len(request.all_token_ids) - 1) // self._block_size]))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self._found.pop(request.request_id, None)
        ended_itself = request.status is RequestStatus.FINISHED_STOPPED and request.stop_reason is None
        tokens = request.all_token_ids
        computed = min(request.num_computed_tokens, len(tokens))
        start = computed // self._block_size * self._block_size
        if computed > start and not ended_itself:
            slot = self._tails.keep(self._base(request, start), tokens[start:computed])
            if slot is not None:
                self._planned.keeps[slot] = block_ids[start // self._block_size]
        return False, None

    def build_connector_meta(self, scheduler_output: Any) -> TailCopies:
        planned, self._planned = self._planned, TailCopies()
        return planned

    def _base(self, request: Any, start: int) -> Any:
        """Names all tokens before the block that begins at `start`."""
        return request.block_hashes[start // self._block_size - 1] if start else None

    # the worker's half

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._layers = [(cache, cache.new_empty((self._num_slots, *cache.shape[1:]))) for cache in kv_caches.values()]

    def handle_preemptions(self, kv_connector_metadata: TailCopies) -> None:
        """Called before a step writes any block: those of finished sequences are intact."""
        if kv_connector_metadata.keeps:
            slots, blocks = torch.tensor(list(kv_connector_metadata.keeps.items())).T
            for cache, kept in self._layers:
                kept[slots] = cache[blocks]

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Called before the forward pass of a step that loads anything."""
        loads = self._get_connector_metadata().loads
        if loads:
            slots, blocks = torch.tensor(loads).T
            for cache, kept in self._layers:
                cache[blocks] = kept[slots]

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Called after each layer of the forward pass."""
        self._layers_done.add_one()

    def wait_for_save(self) -> None:
        pass
