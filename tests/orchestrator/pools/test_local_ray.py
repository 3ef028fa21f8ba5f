"""Facts about the process that holds the local Ray of a named pool."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.core.errors import ReplicaError
from orchestrator.pools import local_ray


@pytest.mark.timeout(60)
def test_a_start_that_is_interrupted_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_ray, "time", Clock())
    monkeypatch.setattr(Clock, "sleep", staticmethod(interrupted))
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: [])  # as it is just after a start
    with pytest.raises(KeyboardInterrupt):
        local_ray.start(1, tmp_path / "address", tmp_path / "log")
    monkeypatch.undo()
    assert [child for child in psutil.Process(os.getpid()).children() if local_ray.__name__ in child.cmdline()] == []


@pytest.mark.timeout(60)
def test_a_process_that_ends_before_its_ray_is_up_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ReplicaError, match=r"a local Ray did not start; .*log says why"):
        local_ray.start(1, tmp_path / "address", tmp_path / "log")


class Clock:
    """Stands for the module `time`."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
