"""Which states of a replica belong to which client, so that those of one that died can be freed. Pure.

A key begins with its client's name. States that the host itself dropped are still known here, up to a bound: to release
one of these does nothing.
"""

from collections import OrderedDict
from collections.abc import Sequence

from verifiers.contract import Run


def new_key(client: str, number: int) -> str:
    return f"{client}/{number}"


class HeldStates:
    """Owner of the keys."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._keys: OrderedDict[str, None] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, runs: Sequence[Run]) -> None:
        """The host is about to read these. A parent that it does not keep may be one of them: it is read anew then."""
        self.imported([run.key for run in runs])
        self.released([run.parent for run in runs if run.parent is not None and not run.keep_parent])

    def failed(self, runs: Sequence[Run]) -> None:
        """The host raised on these: it has none of the states at their ends, and still those that they started from."""
        self.imported([run.parent for run in runs if run.parent is not None])
        self.released([run.key for run in runs])

    def imported(self, keys: Sequence[str]) -> None:
        self._keys.update(dict.fromkeys(keys))
        while len(self._keys) > self._most:
            self._keys.popitem(last=False)

    def released(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._keys.pop(key, None)

    @property
    def clients(self) -> set[str]:
        return {key.partition("/")[0] for key in self._keys}

    def of_client(self, client: str) -> list[str]:
        return [key for key in self._keys if key.partition("/")[0] == client]
