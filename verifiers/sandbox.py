"""Runs an untrusted Python program in a process of its own and says how it ended; the host stays untouched.

The program (`verifiers.confinement` says how) can compute, print and read the Python installation. It has one process
of one thread, no network, no file that it could write, no variables of the host's environment, and limits on CPU and
wall-clock seconds, memory and output. Nothing runs unprotected: where the kernel can't do it, `check` and `run` raise.

Libraries for this need system packages (libseccomp, bubblewrap, containers) or the newest kernels; hence own code.
"""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO

from verifiers import confinement

_SCRIPT = confinement.__file__
_PYTHON_FLAGS = ("-s", "-P", "-S", "-B")  # no site, so that no .pth file runs; not -I, which would ignore our variables
_VARIABLES = {  # all that the program's environment has
    "PYTHONHASHSEED": "0",  # the same program, the same order of its sets
    "PYTHONUTF8": "1",
    "OPENBLAS_NUM_THREADS": "1",  # a library that wants threads would not load
    "OMP_NUM_THREADS": "1",
}
_SYSTEM_FILES = (  # where shared libraries are, and what a program may expect of any system
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo"),
    *("/dev/null", "/dev/zero", "/dev/urandom"),
)


class Ended(StrEnum):
    """How a program ended."""

    COMPLETED = "completed"  # ran to the end of its last source
    EXITED = "exited"  # ended itself before that, by `sys.exit` or `os._exit`
    RAISED = "raised"  # an exception that nothing caught
    TIMEOUT = "timeout"  # was out of CPU or wall-clock seconds
    MEMORY = "memory"
    OUTPUT = "output"  # printed more than it may
    KILLED = "killed"  # by a signal: a crash


class SandboxError(Exception):
    """The program was not run, or not to a verdict, for a reason that is not its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one program. `wall_s` is for programs that sleep: keep it well above `cpu_s`, for machines can be busy."""

    cpu_s: int = 5
    wall_s: float = 20.0
    memory_mib: int = 1024  # of address space
    output_kib: int = 1024  # of standard output, and of standard error

    def __post_init__(self) -> None:
        for name in ("cpu_s", "memory_mib", "output_kib"):
            if getattr(self, name) < 1:
                raise ValueError(f"sandbox: {name} must be >= 1, got {getattr(self, name)}")
        if not self.wall_s > 0:
            raise ValueError(f"sandbox: wall_s must be > 0, got {self.wall_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended and what it printed.

    A program can't fake COMPLETED by ending early or by printing something. Sources of one run share an interpreter,
    though: one that searches its frames for the secret of the report, or whose objects equal everything, could. Where
    that matters compare `stdout` with what was wanted, which the program never sees.
    """

    ended: Ended
    message: str  # for people
    exit_code: int | None = None  # where it ended by itself
    stdout: str = ""


def check() -> None:
    """Raises SandboxError, saying what is missing, where programs can't be confined."""
    outcome = run({"check": "pass"})
    if outcome.ended is not Ended.COMPLETED:
        raise SandboxError(f"the sandbox does not run here: an empty program ended with {outcome.message}")


def run(
    sources: Mapping[str, str],
    *,
    stdin: str = "",
    module: str = "__main__",
    limits: Limits = Limits(),
) -> Outcome:
    """Runs sources, by their names in tracebacks, one after the other in one module. Raises SandboxError.

    Blocks for at most about `limits.wall_s`. Safe to call from several threads.
    """
    reason = confinement.supported_machine()
    if reason is not None:
        raise SandboxError(f"programs can't be run safely here: {reason}")
    standard_library, packages = _paths("stdlib", "platstdlib"), _paths("purelib", "platlib")
    secret = secrets.token_hex(16)
    job = {
        "secret": secret,
        "parent": os.getpid(),
        "name": module,
        "sources": list(sources.items()),
        "packages": packages,
        "readable": [*standard_library, *packages, *_SYSTEM_FILES],
        "limits": {
            "RLIMIT_CPU": limits.cpu_s,
            "RLIMIT_AS": limits.memory_mib << 20,
            "RLIMIT_FSIZE": limits.output_kib << 10,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        },
    }
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-sandbox-") as folder, _files(stdin, json.dumps(job)) as files:
            end = _run(files, folder, limits.wall_s)
            files.report_in.close()  # the last one that could write there: what follows ends
            lines = files.report_out.readall().decode(errors="replace").split("\n")
            report = [line.removeprefix(secret + " ") for line in lines if line.startswith(secret)]
            return _outcome(end, report, files, limits)
    except OSError as error:
        raise SandboxError(f"the sandbox could not be started: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """Of a process. `exit_code` as in `subprocess`: negative for a signal."""

    exit_code: int
    cpu_s: float
    in_time: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """What the process is given: files in memory, whose size its rlimit bounds, and a pipe, which nothing unwrites."""

    stdin: FileIO
    job: FileIO
    stdout: FileIO
    stderr: FileIO
    report_out: FileIO
    report_in: FileIO


@contextmanager
def _files(stdin: str, job: str) -> Iterator[_Files]:
    with ExitStack() as stack:

        def in_memory(text: str) -> FileIO:
            file = stack.enter_context(FileIO(os.memfd_create("sandbox"), "r+"))
            file.write(text.encode(errors="replace"))
            file.seek(0)
            return file

        report_out, report_in = os.pipe()
        yield _Files(
            report_out=stack.enter_context(FileIO(report_out, "r")),
            report_in=stack.enter_context(FileIO(report_in, "w")),
            stdin=in_memory(stdin),
            job=in_memory(job),
            stdout=in_memory(""),
            stderr=in_memory(""),
        )


def _run(files: _Files, folder: str, wall_s: float) -> _End:
    process = subprocess.Popen(
        [sys.executable, *_PYTHON_FLAGS, _SCRIPT, str(files.job.fileno()), str(files.report_in.fileno())],
        stdin=files.stdin,
        stdout=files.stdout,
        stderr=files.stderr,
        pass_fds=(files.job.fileno(), files.report_in.fileno()),
        cwd=folder,
        env=_VARIABLES,
        start_new_session=True,
    )
    try:
        handle = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            in_time = bool(poll.poll(wall_s * 1000))
        finally:
            os.close(handle)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return _End(exit_code=process.returncode, cpu_s=usage.ru_utime + usage.ru_stime, in_time=in_time)


def _outcome(end: _End, report: list[str], files: _Files, limits: Limits) -> Outcome:
    """Raises SandboxError for an end that says nothing about the program."""
    stdout, stderr = _printed(files.stdout), _printed(files.stderr)
    kind, _, detail = report[-1].partition(" ") if report else ("", "", "")
    if not report or report[0] != "confined":
        why = stderr.strip().rpartition("\n")[2] or f"exit code {end.exit_code}"
        raise SandboxError(f"the sandbox could not be set up within {limits.wall_s:g} s: {why}")
    if not end.in_time:
        return Outcome(ended=Ended.TIMEOUT, message=f"still running after {limits.wall_s:g} s")
    ignored_signal = end.exit_code == -signal.SIGKILL and end.cpu_s > 0.9 * limits.cpu_s  # rlimits count in ticks
    if end.exit_code == -signal.SIGXCPU or ignored_signal:
        return Outcome(ended=Ended.TIMEOUT, message=f"used {limits.cpu_s} s of CPU")
    if end.exit_code == -signal.SIGKILL:
        raise SandboxError("the program was killed from outside; was the machine out of memory?")
    if end.exit_code < 0:
        return Outcome(ended=Ended.KILLED, message=f"killed by {signal.Signals(-end.exit_code).name}")
    if max(os.fstat(file.fileno()).st_size for file in (files.stdout, files.stderr)) >= limits.output_kib << 10:
        return Outcome(ended=Ended.OUTPUT, message=f"printed {limits.output_kib} KiB or more")
    if kind == "memory":
        return Outcome(ended=Ended.MEMORY, message=f"MemoryError: may use {limits.memory_mib} MiB")
    if kind == "raised":
        return Outcome(ended=Ended.RAISED, message=detail, exit_code=end.exit_code)
    completed = kind == "completed" and end.exit_code == 0
    return Outcome(
        ended=Ended.COMPLETED if completed else Ended.EXITED,
        message="completed" if completed else f"ended itself with exit code {end.exit_code}",
        exit_code=end.exit_code,
        stdout=stdout,
    )


def _printed(file: FileIO) -> str:
    file.seek(0)
    return file.readall().decode(errors="replace")


def _paths(*names: str) -> list[str]:
    """Of what is installed, without the user's own packages."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in names))
