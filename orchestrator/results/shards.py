"""What writers of a results folder have in common: rows are buffered, and become shards that are whole or not there."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import pyarrow as pa

from orchestrator.core.errors import UserError
from orchestrator.results.files import unwritable
from orchestrator.results.folder import ShardFolder


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Problems on their way to a shard. Replaced as a whole: Ctrl-C can't fall between problems and number."""

    shard: int
    problems: tuple[tuple[pa.Table, ...], ...] = ()  # (rows, then what lies beside them)


class ShardWriter:
    """Owner of a folder while a process writes to it. Not thread-safe.

    A timer of its own writes what no later problem pushes out, so that a killed run loses no more than seconds of work.
    """

    rows: ClassVar[str] = ""  # the subfolder of the rows; "": the folder itself
    companions: ClassVar[tuple[str, ...]]  # those of what lies beside them
    reports: ClassVar[tuple[str, ...]] = ()  # files that are made of the rows, and go with them

    def __init__(self, shard_folder: ShardFolder, *, flush_seconds: float, flush_problems: int | None = None) -> None:
        """Use `open`. A shard is written when so many problems are buffered, or seconds went by since the last."""
        self._shards = shard_folder
        self._flush_seconds, self._flush_problems = flush_seconds, flush_problems
        self._buffer = _Buffer(shard_folder.next_shard())
        self._last_flush = time.monotonic()
        self._lock = threading.Lock()  # of the buffer and the folder, which the timer changes, too
        self._timer: threading.Timer | None = None  # runs while something is buffered

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        run_yaml: str,
        versions: Mapping[str, str],
        resume: bool = False,
        overwrite: bool = False,
        free_keys: Sequence[str] = (),
        **settings: Any,
    ) -> Self:
        """Locks the folder and makes it ready, as `ShardFolder.open` says. `settings` are the constructor's."""
        shard_folder = ShardFolder.open(
            folder,
            rows=cls.rows,
            companions=cls.companions,
            run_yaml=run_yaml,
            versions=versions,
            resume=resume,
            overwrite=overwrite,
            free_keys=free_keys,
            reports=cls.reports,
        )
        try:
            return cls(shard_folder, **settings)
        except BaseException as error:
            shard_folder.close()
            if isinstance(error, OSError):
                raise unwritable(folder, error) from error
            raise

    @property
    def folder(self) -> Path:
        return self._shards.path

    def flush(self) -> None:
        """Writes what is buffered as one shard. After a failure none of it is on disk, all still buffered."""
        with self._lock:
            self._flush()

    def close(self) -> None:
        """Flushes and lets go of the folder. Closing twice is allowed."""
        if self._shards.closed:
            return
        try:
            self.flush()
        finally:
            self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, rows: pa.Table, *companions: pa.Table) -> None:
        """Buffers a problem."""
        with self._lock:
            self._buffer = _Buffer(self._buffer.shard, (*self._buffer.problems, (rows, *companions)))
            if self._timer is None:
                self._timer = threading.Timer(self._flush_seconds, self._flush_late)
                self._timer.daemon = True
                self._timer.start()

    def _flush_when_due(self) -> None:
        full = self._flush_problems is not None and len(self._buffer.problems) >= self._flush_problems
        if full or time.monotonic() - self._last_flush >= self._flush_seconds:
            self.flush()

    def _flush_late(self) -> None:
        """What the timer does. After a failure all is still buffered; the next problem, or the end, tries again."""
        with self._lock:
            if self._shards.closed:
                return
            try:
                self._flush()
            except UserError:
                self._last_flush = float("-inf")

    def _flush(self) -> None:
        """Under the lock."""
        self._last_flush = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._buffer.problems:
            return
        rows, *companions = map(pa.concat_tables, zip(*self._buffer.problems, strict=True))
        sizes = self._shards.write(self._buffer.shard, rows, companions, len(self._buffer.problems))
        self._buffer = _Buffer(self._buffer.shard + 1)
        self._on_shard(sizes)

    def _on_shard(self, sizes: Sequence[int]) -> None:
        """Is told, under the lock, what a shard takes on disk beside its rows: the bytes of each companion."""
