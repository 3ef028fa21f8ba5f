"""Facts about the process that holds the local Ray of a named pool."""

import os
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.pools import local_ray


def test_a_start_that_is_interrupted_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_ray, "time", Clock())
    monkeypatch.setattr(Clock, "sleep", staticmethod(interrupted))
    with pytest.raises(KeyboardInterrupt):
        local_ray.start(1, tmp_path / "address", tmp_path / "log")
    assert [child for child in psutil.Process(os.getpid()).children() if local_ray.__name__ in child.cmdline()] == []


class Clock:
    """Stands for the module `time`."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
