"""Which replica serves a piece of work: pure decisions, shared by both pools.

Work follows what a replica already holds (a cached prefix, a verifier state) unless that replica is overloaded; then
the least loaded one takes it. With a random source, two replicas are drawn and the less loaded of them wins (the power
of two choices), which spares a large pool from herding onto the same replica.
"""

import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence


def choose_replica(
    loads: Mapping[int, float],
    preferred: int | None,
    *,
    ratio: float = 2.0,
    slack: float = 0.25,
    rng: random.Random | None = None,
) -> int:
    """The replica to use. `loads` holds the candidates only: replica -> load (1.0: full; any unit works).

    `preferred` is kept while its load is at most `ratio` times the least load, or at most `slack` above it.
    Ties go to the lowest index.
    """
    if not loads:
        raise ValueError("choose_replica: loads must not be empty")
    least = min(loads.values())
    if preferred is not None and preferred in loads and loads[preferred] <= max(ratio * least, least + slack):
        return preferred
    candidates = sorted(loads)
    if rng is not None and len(candidates) > 2:
        candidates = sorted(rng.sample(candidates, 2))
    return min(candidates, key=lambda replica: loads[replica])


class PrefixAffinity:
    """Remembers which replica saw a prefix last. Owner of a bounded map from hashed prefix blocks to replicas.

    A sequence belongs to a family when at least half of its tokens are known: a shared system prompt alone does not
    herd all problems onto one replica.
    """

    def __init__(self, block_size: int = 16, capacity: int = 65536) -> None:
        self._block_size = block_size
        self._capacity = capacity
        self._replicas: OrderedDict[int, int] = OrderedDict()  # hash of a prefix -> replica, oldest first

    def record(self, token_ids: Sequence[int], replica: int) -> None:
        for key, _ in self._prefixes(token_ids):
            self._replicas[key] = replica
            self._replicas.move_to_end(key)
        while len(self._replicas) > self._capacity:
            self._replicas.popitem(last=False)

    def preferred(self, token_ids: Sequence[int]) -> int | None:
        """The replica that holds the longest known prefix, when that is at least half of the tokens."""
        best, known = None, 0
        for key, num_tokens in self._prefixes(token_ids):
            replica = self._replicas.get(key)
            if replica is None:
                break
            best, known = replica, num_tokens
        return best if 2 * known >= len(token_ids) else None

    def forget(self, replica: int) -> None:
        """Drops what is known of a replica that lost its cache."""
        self._replicas = OrderedDict(item for item in self._replicas.items() if item[1] != replica)

    def _prefixes(self, token_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(hash, number of tokens) of the prefixes that end at a block's end, and of the whole."""
        key = 0
        for start in range(0, len(token_ids), self._block_size):
            block = tuple(token_ids[start : start + self._block_size])
            key = hash((key, block))
            yield key, start + len(block)
