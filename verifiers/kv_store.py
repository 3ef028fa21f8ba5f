"""Keys and values of trajectories by key, bounded by a number of tokens. Least recently used goes first.

Tensors are never written again once they are stored, so that forks share their prefix's. What was dropped is read
again: that costs time and changes no score.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Of consecutive tokens: (2 x layers, heads, tokens, head_dim), a layer's keys before its values."""

    kv: Tensor

    @property
    def num_tokens(self) -> int:
        return self.kv.shape[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A trajectory that was read."""

    family: str  # the problem: only its own trajectories are worth comparing
    ids: npt.NDArray[np.int64]  # (tokens,)
    scores: Mapping[int, float]  # by the index of the token after which they were read
    parts: tuple[tuple[Segment, int], ...]  # its segments in order, and how many tokens of each

    def shared(self, ids: npt.NDArray[np.int64]) -> int:
        """How many tokens of `ids` are the same from the start."""
        length = min(len(ids), len(self.ids))
        different = np.flatnonzero(ids[:length] != self.ids[:length])
        return int(different[0]) if len(different) else length

    def prefix(self, num_tokens: int) -> tuple[tuple[Segment, int], ...]:
        """The parts of its first tokens."""
        parts = []
        for segment, used in self.parts:
            if num_tokens <= 0:
                break
            parts.append((segment, min(used, num_tokens)))
            num_tokens -= used
        return tuple(parts)


class KVStore:
    """Owns the keys and values of one replica."""

    def __init__(self, *, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.num_tokens = 0  # of the segments that are held, each counted once and whole
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # least recently used first
        self._families: defaultdict[str, set[str]] = defaultdict(set)
        self._holders: Counter[Segment] = Counter()  # how many entries hold a segment

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def nearest(self, family: str, ids: npt.NDArray[np.int64], parent: str | None) -> tuple[Entry | None, int]:
        """The entry with the longest prefix of `ids`, the parent's if it is held, and how long that is."""
        keys = sorted(self._families.get(family, ()))
        if parent is not None and parent in self._entries:
            keys = [parent]
        found, longest = None, 0
        for key in keys:
            shared = self._entries[key].shared(ids)
            if shared > longest:
                found, longest = key, shared
        if found is None:
            return None, 0
        self._entries.move_to_end(found)
        return self._entries[found], longest

    def put(self, key: str, entry: Entry) -> None:
        """Holds an entry; one that alone has more than `max_tokens` is not kept."""
        self.free([key])
        self._entries[key] = entry
        self._families[entry.family].add(key)
        for segment, _ in entry.parts:
            self._holders[segment] += 1
            if self._holders[segment] == 1:
                self.num_tokens += segment.num_tokens
        while self.num_tokens > self.max_tokens:
            self.free([next(iter(self._entries))])

    def free(self, keys: Sequence[str]) -> None:
        """Forgets entries; unknown keys are ignored."""
        for key in keys:
            entry = self._entries.pop(key, None)
            if entry is None:
                continue
            self._families[entry.family].discard(key)
            if not self._families[entry.family]:
                del self._families[entry.family]
            for segment, _ in entry.parts:
                self._holders[segment] -= 1
                if not self._holders[segment]:
                    del self._holders[segment]
                    self.num_tokens -= segment.num_tokens
