"""`headrace` commands as processes of their own, and whatever they leave behind."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

TAG = "HEADRACE_TEST_TAG"


class Started:
    """Starts one command on a file, as often as it is called. Owner of the processes."""

    def __init__(self, name: str, path: Path, columns: int) -> None:
        """Use `commands`."""
        self._command = [sys.executable, "-c", "from experiments.cli import main; main()", name, str(path)]
        self._tag = uuid.uuid4().hex
        self._environment = {**os.environ, TAG: self._tag, "COLUMNS": str(columns)}
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*self._command, *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def alive(self) -> list[psutil.Process]:
        """What still runs of all that it started, in whatever process group."""
        return tagged(self._tag)


def tagged(tag: str) -> list[psutil.Process]:
    """What runs with this value of TAG in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TAG) == tag and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@contextmanager
def commands(name: str, path: Path, *, columns: int) -> Iterator[Started]:
    """`headrace NAME PATH ...`; leaving kills what is left."""
    start = Started(name, path, columns)
    try:
        yield start
    finally:
        for process in start.processes:
            process.kill()
            process.communicate(timeout=10)
        for survivor in start.alive():
            survivor.kill()
