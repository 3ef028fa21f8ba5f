"""Facts about files that a user asked for, at a place of theirs."""

import errno
import os
import stat
from pathlib import Path

import pytest

from orchestrator.results import files
from orchestrator.results.files import write_output


def full(path: Path, data: bytes) -> None:
    """A disk on which half of it has room."""
    path.write_bytes(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_where_a_disk_is_full_the_file_is_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    write_output(page, b"before")
    monkeypatch.setattr(files, "write_synced", full)
    for path in (page, tmp_path / "new.html"):
        with pytest.raises(OSError, match="No space"):
            write_output(path, b"after")
    assert page.read_bytes() == b"before" and list(tmp_path.iterdir()) == [page]


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    write_output(Path(os.devnull), b"page")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(IsADirectoryError):
        write_output(tmp_path, b"page")


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "page")
    write_output(tmp_path / "link", b"page")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "page").read_bytes() == b"page"
