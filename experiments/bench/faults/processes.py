"""Processes as faults meet them: who descends from whom, and whether one has ended."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

MARK = "HEADRACE_FAULTS_MARK"  # an environment variable that all processes of a benchmark have
ENVIRONMENT: Mapping[str, str] = {"SPT_NOENV": "1"}  # else Ray's titles of processes overwrite where it is read


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A number may be given again: the time tells processes apart."""

    pid: int
    created: float

    @property
    def lives(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return bool(process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def send(self, signum: int) -> None:
        """Nothing where it has ended."""
        if self.lives:
            os.kill(self.pid, signum)


def tree(pid: int) -> tuple[ProcessId, ...]:
    """A process and all that descend from it, itself first; none where it has ended."""
    try:
        root = psutil.Process(pid)
        return tuple(_ids([root, *root.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return ()


def titled(title: str) -> list[int]:
    """Descendants of this process whose title begins so, in order."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cmdline()[:1][0].startswith(title):
                found.append(process.pid)
        except (psutil.NoSuchProcess, IndexError):
            continue
    return sorted(found)


def marked(mark: str) -> list[ProcessId]:
    """All but this one that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return list(_ids(found))


def _ids(processes: Iterable[psutil.Process]) -> Iterable[ProcessId]:
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield ProcessId(process.pid, process.create_time())
        except psutil.NoSuchProcess:
            continue
