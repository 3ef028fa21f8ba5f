"""The inside of the sandbox: a script that gives up its rights for good and then runs what it is given.

`verifiers.sandbox` starts it as `python confinement.py JOB_FD REPORT_FD`. Standard library only, for it imports nothing
else. The kernel keeps what it sets: rlimits (setrlimit(2)), no capabilities for root (capabilities(7)), Landlock
(landlock(7)) and a seccomp filter (seccomp(2)) that names the few system calls which remain. Whatever starts a process
or a thread, opens a file for writing, makes a socket or a signal is not among them, nor is anything that a later kernel
will bring. What a program still learns of the host: which paths exist, the time, how much memory there is.
"""

import builtins
import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What remains, with its numbers on x86-64 and on aarch64 (-: none there).
_ALLOWED = """
    read 0 63, readv 19 65, pread64 17 67, write 1 64, writev 20 66, pwrite64 18 68, lseek 8 62, close 3 57,
    dup 32 23, dup2 33 -, dup3 292 24, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
    stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48,
    faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17,
    mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, madvise 28 233, brk 12 214,
    rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, restart_syscall 219 128,
    nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
    time 201 -, times 100 153, getrusage 98 165, sysinfo 99 179, uname 63 160, getrandom 318 278,
    getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
    futex 202 98, set_robust_list 273 99, rseq 334 293, sched_yield 24 124, sched_getaffinity 204 123,
    exit 60 93, exit_group 231 94
"""
# Allowed as far as one argument goes. Others of fcntl and ioctl can signal, or type into, what is not ours.
_OPEN, _OPENAT = "open 2 -", "openat 257 56"  # without any of these flags
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # __O_TMPFILE
_FCNTL, _FCNTL_COMMANDS = "fcntl 72 25", (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
_IOCTL, _IOCTL_REQUESTS = "ioctl 16 29", (0x5401, 0x5450, 0x5451)  # TCGETS (isatty), FIONCLEX, FIOCLEX

# linux/audit.h; the position of its numbers in the table
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32 = 0x40000000  # from here on: calls of the x32 ABI, which x86-64 kernels may serve under the same audit number

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER, _KILL, _DENY, _ALLOW = 2, 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; arguments take 8 bytes each

# linux/capability.h
_CAPABILITY_VERSION, _CAP_DAC_READ_SEARCH = 0x20080522, 1 << 2

# linux/landlock.h
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_PATH_BENEATH, _READ_FILE, _READ_DIR = 1, 1, 4, 8
_LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version of the interface: how many rights on files; 16 since 5


Instruction = tuple[int, int, int, int]  # code, how many to skip if true, how many if false, operand


def supported_machine() -> str | None:
    """Why programs can't be confined here; None where they can, as far as can be seen from outside."""
    name = os.uname()
    if sys.platform == "linux" and name.machine in _MACHINES and struct.calcsize("P") == 8:
        return None
    return f"wanted 64-bit Linux on {' or '.join(_MACHINES)} (for seccomp), got {name.sysname} on {name.machine}"


def landlock_version() -> int:
    """Of the kernel's interface; 0 where it has none, and what is readable can't be limited."""
    version: int = _libc().syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    return max(0, version)


def confine(limits: Mapping[str, int], readable: Iterable[str]) -> None:
    """Gives up everything but computing and reading below `readable`. Raises OSError when the kernel refuses."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value + (name == "RLIMIT_CPU")))  # SIGXCPU, then SIGKILL
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_DUMPABLE, 0)  # a crash starts no helper of the system's
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit_reading(readable)
    _drop_capabilities()
    instructions = seccomp_filter(os.uname().machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def seccomp_filter(machine: str) -> list[Instruction]:
    """A classic BPF program."""
    audit, column = _MACHINES[machine]

    def numbers(table: str) -> list[int]:
        found = [entry.split()[1 + column] for entry in table.split(",")]
        return [int(number) for number in found if number != "-"]

    def unless(number: int, argument: int, checks: Sequence[Instruction]) -> list[Instruction]:
        """Skips the checks of another call's argument."""
        load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)  # the low half: the kernel reads 32 bits of these
        return [(_IF_EQUAL, 0, 1 + len(checks), number), load, *checks]

    program: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL)]
    program += [(_LOAD, 0, 0, _NUMBER), (_IF_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for number in numbers(_ALLOWED):
        program += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for table, argument in ((_OPEN, 1), (_OPENAT, 2)):
        checks = [(_IF_ANY_BIT, 0, 1, _WRITES), (_RETURN, 0, 0, _DENY), (_RETURN, 0, 0, _ALLOW)]
        for number in numbers(table):
            program += unless(number, argument, checks)
    for table, values in ((_FCNTL, _FCNTL_COMMANDS), (_IOCTL, _IOCTL_REQUESTS)):
        checks = [check for v in values for check in ((_IF_EQUAL, 0, 1, v), (_RETURN, 0, 0, _ALLOW))]
        for number in numbers(table):
            program += unless(number, 1, [*checks, (_RETURN, 0, 0, _DENY)])
    return [*program, (_RETURN, 0, 0, _DENY)]


def _drop_capabilities() -> None:
    """Root's, with which even harmless calls can do harm; but for reading what another user installed."""
    header, sets = struct.pack("=Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    _checked("capget", _libc().capget(header, sets))
    effective, permitted, *_ = struct.unpack("=6I", sets)
    kept = struct.pack("=6I", effective & _CAP_DAC_READ_SEARCH, permitted & _CAP_DAC_READ_SEARCH, 0, 0, 0, 0)
    _checked("capset", _libc().capset(header, kept))


def _limit_reading(readable: Iterable[str]) -> None:
    version = landlock_version()
    if not version:
        return
    handled = ctypes.c_uint64((1 << _LANDLOCK_RIGHTS.get(version, 16)) - 1)
    ruleset = _syscall(_LANDLOCK_CREATE, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    for path in readable:
        if os.path.exists(path):
            beneath = os.open(path, os.O_PATH)
            rights = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
            _syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_BENEATH, struct.pack("=Qi", rights, beneath), 0)
            os.close(beneath)
    _syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: Any) -> int:
    return _checked(f"system call {number}", _libc().syscall(number, *arguments))


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    arguments = [ctypes.c_ulong(argument) for argument in (value, pointer, 0, 0)]
    _checked(f"prctl {option}", _libc().prctl(option, *arguments))


def _checked(what: str, result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def main() -> None:
    """Runs the sources of a job one after the other in one fresh module. Each line of the report opens with the job's
    secret, so that what the program itself writes there is not taken for one."""
    job_fd, report_fd = map(int, sys.argv[1:])
    with open(job_fd, encoding="utf-8") as file:
        job = json.load(file)

    def line(text: str) -> bytes:
        return f"\n{job['secret']} {text}\n".encode(errors="backslashreplace")

    out_of_memory = line("memory")  # made while there is some
    module = sys.modules[job["name"]] = types.ModuleType(job["name"])
    sys.argv, sys.path = [job["name"]], [*sys.path, *job["packages"]]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # `site` has them, and does not run
    confine(job["limits"], job["readable"])
    if os.getppid() != job["parent"]:
        sys.exit("the process that asked is gone")
    os.write(report_fd, line("confined"))
    try:
        for name, source in job["sources"]:
            exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    except SystemExit:
        raise
    except MemoryError:
        os.write(report_fd, out_of_memory)
        sys.exit(1)
    except BaseException as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        os.write(report_fd, line(f"raised {text[:300]}"))
        sys.exit(1)
    os.write(report_fd, line("completed"))


if __name__ == "__main__":
    main()
