"""A results folder that one process fills while anyone may read: its lock, its configuration and its shards.

A shard is files of one name in several subfolders: those beside are written first, the one with the rows last, and that
commits it. Each file appears whole or not at all. So a process killed at any point loses what it had not
flushed and never leaves a row twice or half of one.
"""

import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from orchestrator.core.errors import UserError
from orchestrator.results.files import unwritable, write_bytes, write_parquet, write_synced
from orchestrator.results.same_run import check_same_run, parse_config

_RUN_YAML, _VERSIONS, _LOCK, _PROBE = "run.yaml", "versions.json", ".lock", ".probe.tmp"
_TEMP_FILES = (_PROBE, f"{_RUN_YAML}.tmp", f"{_VERSIONS}.tmp")
_PROBE_BYTES = 1 << 16


class ShardFolder:
    """Owns a folder while a process writes to it. Not thread-safe."""

    def __init__(self, path: Path, lock_fd: int, rows: str, companions: Sequence[str]) -> None:
        """Use `open`."""
        self.path = path
        self._lock_fd: int | None = lock_fd
        self._rows = rows
        self._companions = tuple(companions)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        rows: str,
        companions: Sequence[str],
        run_yaml: str,
        versions: Mapping[str, str],
        resume: bool = False,
        overwrite: bool = False,
        free_keys: Sequence[str] = (),
        reports: Sequence[str] = (),
    ) -> Self:
        """Locks the folder and makes it ready: new, continued (`resume`) or emptied of rows and reports (`overwrite`).

        `rows` and `companions`: the subfolders of a shard's files; `rows` may be "", the folder itself. `run_yaml`
        is the resolved configuration. `resume` wants it equal to the folder's own, except for the dotted `free_keys`
        and what is below them, which change no row. Files beside that no rows commit are dropped. An empty folder or
        one without rows counts as new. Foreign files are never touched. Raises UserError, leaving no new folder.
        """
        if resume and overwrite:
            raise UserError("results: resume and overwrite exclude each other, got both")
        wanted = parse_config(run_yaml, "the configuration of this run")
        created, lock_fd = False, None
        try:
            created = _make_folder(path)
            lock_fd = lock_folder(path)
            _probe(path)
            folder = cls(path, lock_fd, rows, companions)
            folder._prepare(run_yaml, wanted, versions, resume, overwrite, free_keys, reports)
            return folder
        except BaseException as error:
            if created:
                _remove_new(path, (rows, *companions), locked=lock_fd is not None)
            if lock_fd is not None:
                os.close(lock_fd)
            if isinstance(error, OSError):
                raise unwritable(path, error) from error
            raise

    @property
    def closed(self) -> bool:
        return self._lock_fd is None

    def close(self) -> None:
        """Lets go of the folder. Closing twice is allowed."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def shards(self) -> list[Path]:
        """The committed ones' rows, in order."""
        return shards(self.path, self._rows)

    def next_shard(self) -> int:
        """A number larger than those of all shards."""
        committed = self.shards()
        return 1 + int(committed[-1].stem.removeprefix("part-")) if committed else 0

    def companions(self, rows: Path) -> list[Path]:
        """The other files of a shard. Those of a subfolder that is younger than the shard do not exist."""
        return [self.path / subfolder / rows.name for subfolder in self._companions]

    def write(self, shard: int, rows: pa.Table, companions: Sequence[pa.Table], num_problems: int) -> list[int]:
        """Writes and commits a shard of so many problems. The sizes in bytes of the files beside its rows. After a
        failure, a UserError, none of it is on disk."""
        rows_path = self.path / self._rows / f"part-{shard:06d}.parquet"
        paths = self.companions(rows_path)
        try:
            for path, table in zip(paths, companions, strict=True):
                write_parquet(path, table)
            write_parquet(rows_path, rows)
        except OSError as error:
            if not rows_path.exists():
                for path in paths:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
            raise UserError(
                f"{unwritable(self.path, error)}; {num_problems} finished problems "
                "are not saved, what was saved before is whole: free some space, then run with --resume"
            ) from error
        return [path.stat().st_size for path in paths]

    def drop_orphans(self) -> None:
        """Removes the files beside that no rows commit."""
        committed = {path.name for path in self.shards()}
        for subfolder in self._companions:
            for path in shards(self.path, subfolder):
                if path.name not in committed:
                    path.unlink()

    def _prepare(
        self,
        run_yaml: str,
        wanted: dict[str, Any],
        versions: Mapping[str, str],
        resume: bool,
        overwrite: bool,
        free_keys: Sequence[str],
        reports: Sequence[str],
    ) -> None:
        """Everything that `open` does under the lock."""
        config_path = self.path / _RUN_YAML
        if config_path.exists() and resume:
            check_same_run(self.path, config_path, wanted, free_keys)
        elif self.shards() and not overwrite:
            raise UserError(
                f"results: {self.path} already holds results; wanted --resume (to finish that run), "
                "--overwrite (to replace it) or another folder"
            )
        for name in _TEMP_FILES:
            (self.path / name).unlink(missing_ok=True)
        for subfolder in (self._rows, *self._companions):
            for path in (self.path / subfolder).glob("part-*.parquet.tmp"):
                path.unlink()
        if overwrite:
            for path in self.shards():
                path.unlink()  # what is beside them is now an orphan
            for name in reports:
                (self.path / name).unlink(missing_ok=True)
        if not (config_path.exists() and resume):
            versions_json = json.dumps(dict(versions), indent=2, sort_keys=True) + "\n"
            write_bytes(self.path / _VERSIONS, versions_json.encode())
            write_bytes(config_path, run_yaml.encode())  # last: it makes this a results folder
        for subfolder in (self._rows, *self._companions):
            (self.path / subfolder).mkdir(exist_ok=True)
        self.drop_orphans()


def shards(folder: Path, subfolder: str) -> list[Path]:
    """The shards' files in a subfolder, in order. Also while they are being written."""
    return sorted((folder / subfolder).glob("part-" + "[0-9]" * 6 + ".parquet"))


def check_results_folder(folder: Path) -> None:
    """Raises UserError for anything else."""
    if not folder.is_dir():
        raise UserError(f"results: {folder} is not a folder")
    if not _is_results(folder):
        raise UserError(f"results: {folder} is not a results folder (it has no {_RUN_YAML} and {_VERSIONS})")


def _make_folder(folder: Path) -> bool:
    """Makes the folder, or checks that the one there is empty or holds results. Whether it was made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
        return True
    except FileExistsError:
        if not folder.is_dir():
            raise UserError(f"results: {folder} is a file, wanted a folder") from None
    own = {_LOCK, _VERSIONS, *_TEMP_FILES}  # what a run killed in its first moments leaves
    if not _is_results(folder) and not {path.name for path in folder.iterdir()} <= own:
        raise UserError(f"results: {folder} holds other files and no results; wanted a new or empty folder")
    return False


def _is_results(folder: Path) -> bool:
    return (folder / _RUN_YAML).exists() and (folder / _VERSIONS).exists()


def lock_folder(folder: Path) -> int:
    """An exclusive lock, to be closed, which the kernel drops with the process. Removing its file would be a race.
    Raises UserError where another process has it."""
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise UserError(
                f"results: another run is writing to {folder}; wait for it or take another folder"
            ) from error
        raise
    return fd


def _probe(folder: Path) -> None:
    """Fails now, and not after an hour, where the disk is full or read-only."""
    try:
        write_synced(folder / _PROBE, bytes(_PROBE_BYTES))
    finally:
        (folder / _PROBE).unlink(missing_ok=True)


def _remove_new(folder: Path, subfolders: Sequence[str], *, locked: bool) -> None:
    """Undoes the making of a folder. Without its lock, another run may be at work there: only when empty."""
    with suppress(OSError):
        if locked:
            for name in (_RUN_YAML, _VERSIONS, _LOCK, *_TEMP_FILES):
                (folder / name).unlink(missing_ok=True)
            for path in {folder / name for name in subfolders} - {folder}:
                if path.exists():
                    path.rmdir()
        folder.rmdir()
