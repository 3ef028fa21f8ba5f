"""Which partly filled KV blocks are kept, and where. Pure: the blocks themselves are the connector's."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

Key = tuple[Hashable, tuple[int, ...]]  # what names all tokens up to the block; the tokens in it


class KeptTails:
    """Slots by the tokens whose KV they hold. Owner of the slots; the least recently used one is given away."""

    def __init__(self, num_slots: int) -> None:
        """Raises ValueError without a slot."""
        if num_slots < 1:
            raise ValueError(f"kept tails: num_slots must be >= 1, got {num_slots}")
        self._free = list(reversed(range(num_slots)))
        self._slots: OrderedDict[Key, int] = OrderedDict()

    def keep(self, base: Hashable, tail: Sequence[int]) -> int | None:
        """The slot to copy a block into that follows `base` and begins with `tail`; None: it is kept already."""
        key = (base, tuple(tail))
        if key in self._slots:
            self._slots.move_to_end(key)
            return None
        slot = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
        self._slots[key] = slot
        return slot

    def longest(self, base: Hashable, tail: Sequence[int]) -> tuple[int, int] | None:
        """How many tokens of `tail` are kept, at most, and in which slot; None where none is."""
        whole = tuple(tail)
        for length in range(len(whole), 0, -1):
            key = (base, whole[:length])
            if key in self._slots:
                self._slots.move_to_end(key)
                return length, self._slots[key]
        return None
