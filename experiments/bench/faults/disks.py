"""Small disks that faults may fill: they hold what this process and its children see, and nobody else's files."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import UserError

SHM = Path("/dev/shm")
_NEW_MOUNTS = 0x20000  # of unshare(2), and below of mount(2)
_PRIVATE, _ALL_BELOW = 1 << 18, 1 << 14
_DETACH = 2
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder on a disk of its own."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb") as file, suppress(OSError):
            size = 0
            for piece in (_MIB, os.sysconf("SC_PAGE_SIZE")):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), size, piece)
                        size += piece

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disks(results: Path, *, results_mib: int, shm_mib: int) -> Iterator[tuple[Disk, Disk]]:
    """One at `results`, one in the place of /dev/shm. Raises UserError where this process may not mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS):
        raise UserError("bench: faults fill disks of their own, and this user may not mount any")
    _mount(libc, None, Path("/"), None, _PRIVATE | _ALL_BELOW, None)
    mounted: list[Path] = []
    try:
        for folder, size in ((results, results_mib), (SHM, shm_mib)):
            _mount(libc, b"tmpfs", folder, b"tmpfs", 0, f"size={size}m".encode())
            mounted.append(folder)
        yield Disk(results), Disk(SHM)
    finally:
        for folder in mounted:
            libc.umount2(bytes(folder), _DETACH)


def _mount(
    libc: ctypes.CDLL, source: bytes | None, folder: Path, kind: bytes | None, flags: int, options: bytes | None
) -> None:
    if libc.mount(source, bytes(folder), kind, ctypes.c_ulong(flags), options):
        raise UserError(f"bench: can't mount on {folder}: {os.strerror(ctypes.get_errno())}")
