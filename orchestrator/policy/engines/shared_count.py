"""A count that one process keeps and another one reads at any time, also while the first is busy."""

import mmap
from typing import IO

_NUM_BYTES = 8


class SharedCount:
    """Eight bytes of a file, in the memory of every process that maps it. Has one writer."""

    def __init__(self, path: str) -> None:
        """The file must exist; `prepare` makes it large enough."""
        with open(path, "r+b") as file:
            self._cell = memoryview(mmap.mmap(file.fileno(), _NUM_BYTES)).cast("Q")

    @staticmethod
    def prepare(file: IO[bytes]) -> None:
        """Makes a count of 0 of an empty file."""
        file.write(bytes(_NUM_BYTES))
        file.flush()

    @property
    def value(self) -> int:
        return int(self._cell[0])

    def add_one(self) -> None:
        self._cell[0] += 1
