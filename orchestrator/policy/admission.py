"""Which of the waiting requests an engine runs next. Pure.

As many run as fit the KV cache to their end, so that none is preempted. The client for which the fewest tokens were
computed so far comes first; its own requests are served in the order in which they came. A client that is new, or asks
again after a pause, is lifted to the least of those that wait: nobody saves turns up, and nobody who came early
waits until the others have caught up (the virtual token counter of Sheng et al., "Fairness in Serving Large Language
Models", arXiv 2401.00588). So equal clients get equal shares, and a client with one search does not wait behind one
with many.

While a request runs it counts with the tokens that it may fill, its prefix and `max_tokens`, since these are kept free
for it; once it has ended, with those that were computed for it, of its prefix and sampled.
"""

from collections import Counter, OrderedDict
from math import ceil

from orchestrator.replicas.members import Load

_OVERCOMMIT = 1.25  # sequences in an engine per sequence decoded together: it finds the next one waiting


def fits(tokens: int, *, running: int, reserved: int, capacity_tokens: int, max_num_seqs: int) -> bool:
    """Whether an engine that runs so many requests, which may fill the `reserved` tokens of its KV cache, can run one
    more of `tokens` to its end without preempting another. One always fits alone."""
    return not running or (reserved + tokens <= capacity_tokens and running < ceil(_OVERCOMMIT * max_num_seqs))


def in_replicas(tokens: int, sequences: int, *, capacity_tokens: int, max_num_seqs: int) -> float:
    """Work as a share of what one engine runs at a time: so many sequences, which may fill so many tokens."""
    return max(tokens / capacity_tokens, sequences / max_num_seqs)


class Admission:
    """Owner of who waits and of what is reserved."""

    def __init__(self, *, capacity_tokens: int, max_num_seqs: int, block_tokens: int = 1) -> None:
        """`capacity_tokens`: of the KV cache, which a request fills in whole blocks of `block_tokens`."""
        self._capacity_tokens = capacity_tokens
        self._block_tokens = block_tokens
        self._max_num_seqs = max_num_seqs
        self._waiting: OrderedDict[str, OrderedDict[int, int]] = OrderedDict()  # client -> request -> its tokens
        self._running: dict[tuple[str, int], int] = {}
        self._computed: dict[str, int] = {}  # tokens, by client, for requests that have ended
        self._level = 0  # of that, for the client that was served last
        self._reserved: Counter[str] = Counter()  # tokens, by client
        self.num_reserved = 0  # tokens

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def load(self) -> Load:
        room = {"capacity_tokens": self._capacity_tokens, "max_num_seqs": self._max_num_seqs}
        waiting = sum(sum(requests.values()) for requests in self._waiting.values())
        return Load(
            running=in_replicas(self.num_reserved, len(self._running), **room),
            waiting=in_replicas(waiting, self.num_waiting, **room),
        )

    def add(self, client: str, request: int, tokens: int) -> None:
        """A request waits that may fill so many tokens of the cache."""
        if client not in self._waiting:
            least = min((self._computed[other] for other in self._waiting), default=self._level)
            self._computed[client] = max(self._computed.get(client, 0), least)
            self._waiting[client] = OrderedDict()
        self._waiting[client][request] = ceil(tokens / self._block_tokens) * self._block_tokens

    def take(self) -> tuple[str, int] | None:
        """The (client, request) to run now; None while there is no room for it."""
        if not self._waiting:
            return None
        client = min(self._waiting, key=lambda name: self._computed[name] + self._reserved[name])
        request, tokens = next(iter(self._waiting[client].items()))
        if not fits(
            tokens,
            running=len(self._running),
            reserved=self.num_reserved,
            capacity_tokens=self._capacity_tokens,
            max_num_seqs=self._max_num_seqs,
        ):
            return None
        self._forget_waiting(client, request)
        self._running[client, request] = tokens
        self._level = self._computed[client]
        self._reserved[client] += tokens
        self.num_reserved += tokens
        return client, request

    def end(self, client: str, request: int, computed: int = 0) -> bool:
        """A request runs, or waits, no more; so many tokens were computed for it. Whether it ran."""
        tokens = self._running.pop((client, request), None)
        if tokens is None:
            self._forget_waiting(client, request)
            return False
        self.num_reserved -= tokens
        self._reserved[client] -= tokens
        if client in self._computed:  # it has not left
            self._computed[client] += computed
        return True

    def leave(self, client: str) -> None:
        """A client, which has no request any more, won't come again."""
        self._computed.pop(client, None)
        self._reserved += Counter()  # without those that have none

    def _forget_waiting(self, client: str, request: int) -> None:
        waiting = self._waiting.get(client)
        if waiting is not None:
            waiting.pop(request, None)
            if not waiting:
                del self._waiting[client]
