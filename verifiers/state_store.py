"""Fixed-size model states by key: in slots of one contiguous tensor, then in host memory, then dropped.

Least recently used goes first. A dropped state loses nothing: the caller is told, and rebuilds it from tokens.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from verifiers.contract import LAYOUT_VERSION, StateBlob


class MissingStates(KeyError):
    """States that are not held; `keys` names them."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} states are not held, the first is {keys[0]}")
        self.keys = tuple(keys)


class StateStore:
    """Owns the states of one replica. What it takes and gives are copies, so that forks never share storage."""

    def __init__(
        self, *, num_slots: int, state_numel: int, host_slots: int, model_hash: str, device: str = "cpu"
    ) -> None:
        self.num_slots, self.host_slots, self.model_hash = num_slots, host_slots, model_hash
        self.state_numel = state_numel
        try:
            self._states = torch.empty(num_slots, state_numel, dtype=torch.float32, device=device)
        except RuntimeError as error:
            raise ValueError(
                f"verifier: {num_slots} slots of {state_numel * 4 / 2**20:.1f} MiB do not fit in memory"
                f" on {device}: lower verifier.slots"
            ) from error
        self._free_slots = list(range(num_slots))
        self._slots: OrderedDict[str, int] = OrderedDict()  # key -> slot, least recently used first
        self._spilled: OrderedDict[str, Tensor] = OrderedDict()  # key -> state on the host, oldest spill first
        self._num_tokens: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._num_tokens

    def __len__(self) -> int:
        return len(self._num_tokens)

    def num_tokens(self, key: str) -> int:
        """How many tokens a held state covers."""
        return self._num_tokens[key]

    def missing(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if key not in self]

    def get(self, keys: Sequence[str]) -> Tensor:
        """(len(keys), state_numel), a copy; keys may repeat. At most `num_slots` different ones at a time."""
        if missing := self.missing(keys):
            raise MissingStates(missing)
        pinned = dict.fromkeys(keys)
        assert len(pinned) <= self.num_slots, f"{len(pinned)} states asked of {self.num_slots} slots"
        for key in pinned:
            if key in self._slots:
                self._slots.move_to_end(key)
        if back := [key for key in pinned if key not in self._slots]:
            states = torch.stack([self._spilled.pop(key) for key in back])
            self._write(back, states)  # evicts nothing pinned: those are the most recently used
        slots = self._index([self._slots[key] for key in keys])
        return self._states.index_select(0, slots)

    def put(self, keys: Sequence[str], states: Tensor, num_tokens: Sequence[int]) -> None:
        """Holds a copy of each row of `states` under its (new) key. At most `num_slots` at a time."""
        assert states.shape == (len(keys), self.state_numel), f"states of shape {tuple(states.shape)}"
        assert len(set(keys)) == len(keys) <= self.num_slots, f"{len(keys)} states for {self.num_slots} slots"
        self.free(keys)
        self._num_tokens.update(zip(keys, num_tokens, strict=True))
        self._write(keys, states)

    def free(self, keys: Sequence[str]) -> None:
        """Forgets states; unknown keys are ignored."""
        for key in keys:
            if self._num_tokens.pop(key, None) is None:
                continue
            if (slot := self._slots.pop(key, None)) is not None:
                self._free_slots.append(slot)
            else:
                del self._spilled[key]

    def export(self, key: str) -> StateBlob:
        if key not in self:
            raise MissingStates([key])
        state = self._states[self._slots[key]] if key in self._slots else self._spilled[key]
        return StateBlob(
            layout_version=LAYOUT_VERSION,
            model_hash=self.model_hash,
            num_tokens=self._num_tokens[key],
            data=state.cpu().clone().numpy(),
        )

    def import_(self, key: str, blob: StateBlob) -> None:
        """Raises ValueError for a state of another model, or of another layout or size."""
        for what, got, wanted in (
            ("layout version", blob.layout_version, LAYOUT_VERSION),
            ("model", blob.model_hash, self.model_hash),
            ("dtype", str(blob.data.dtype), "float32"),
            ("size", blob.data.shape, (self.state_numel,)),
        ):
            if got != wanted:
                raise ValueError(f"verifier state refused: {what} {got}, wanted {wanted}")
        self.put([key], torch.tensor(blob.data).unsqueeze(0), [blob.num_tokens])

    def _write(self, keys: Sequence[str], states: Tensor) -> None:
        """Into slots, making room first; `keys` become the most recently used, in order."""
        self._spill(len(keys) - len(self._free_slots))
        for key in keys:
            self._slots[key] = self._free_slots.pop()
        slots = self._index([self._slots[key] for key in keys])
        self._states.index_copy_(0, slots, states.to(self._states.device))

    def _spill(self, count: int) -> None:
        """Moves the least recently used states to the host, and drops what does not fit there."""
        if count <= 0:
            return
        evicted = [self._slots.popitem(last=False) for _ in range(count)]
        self._free_slots.extend(slot for _, slot in evicted)
        kept = evicted[max(0, count - self.host_slots) :] if self.host_slots else []
        for key, _ in evicted[: count - len(kept)]:
            del self._num_tokens[key]
        while len(self._spilled) + len(kept) > self.host_slots:
            key, _ = self._spilled.popitem(last=False)
            del self._num_tokens[key]
        if kept:
            rows = self._states.index_select(0, self._index([slot for _, slot in kept]))
            for (key, _), row in zip(kept, rows.cpu(), strict=True):
                self._spilled[key] = row.clone()  # on its own, so that dropping one frees its memory

    def _index(self, slots: list[int]) -> Tensor:
        return torch.tensor(slots, dtype=torch.int64, device=self._states.device)
