"""Hostile programs, and an honest one: all end as said, and nothing of the host is touched.

Were the sandbox broken, they would still do no lasting harm: bombs are small and signals are 0.
"""

import ast
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from verifiers import confinement, sandbox
from verifiers.sandbox import Ended, Limits, Outcome, SandboxError

if confinement.supported_machine() is not None:
    pytest.skip(f"no sandbox here: {confinement.supported_machine()}", allow_module_level=True)

TIGHT = Limits(wall_s=60.0, memory_mib=192, output_kib=64)
ONE_SECOND = replace(TIGHT, cpu_s=1)


def run(program: str, *, tests: str = "pass", limits: Limits = TIGHT) -> Outcome:
    return sandbox.run({"solution": program, "tests": tests}, limits=limits)


def allowed(attempts: Sequence[str], refusals: str = "PermissionError") -> list[str]:
    """Those of the attempts that one program, which tries them all, was not refused."""
    program = (
        "import ctypes, fcntl, os, resource, signal, socket, tempfile, urllib.request\n"
        "def raw(*arguments):\n"
        "    if ctypes.CDLL(None, use_errno=True).syscall(*arguments) == -1:\n"
        "        raise OSError(ctypes.get_errno(), 'refused')\n"
        f"for attempt in {list(attempts)!r}:\n"
        "    try: eval(attempt)\n"
        f"    except ({refusals}): continue\n"
        "    except Exception as error: attempt = f'{attempt}: {error!r}'\n"
        "    print(attempt)\n"
    )
    outcome = run(program)
    assert outcome.ended is Ended.COMPLETED, outcome
    return outcome.stdout.splitlines()


def test_a_program_computes_reads_its_input_and_prints():
    program = "import math, json\nn = int(input())\nprint(json.dumps([math.comb(n, 2)] * 2))"
    outcome = sandbox.run({"solution": program}, stdin="7\n")
    assert (outcome.ended, outcome.stdout) == (Ended.COMPLETED, "[21, 21]\n")


def test_a_later_source_sees_the_names_of_an_earlier_one():
    assert run("def double(x): return 2 * x", tests="assert double(3) == 6").ended is Ended.COMPLETED
    outcome = run("def double(x): return 3 * x", tests="assert double(3) == 6, 'got 9'")
    assert (outcome.ended, outcome.message) == (Ended.RAISED, "AssertionError: got 9")


def test_installed_packages_can_be_imported():
    assert run("import numpy", tests="assert numpy.ones(3).sum() == 3", limits=Limits()).ended is Ended.COMPLETED


def test_the_same_program_prints_the_same_twice():
    program = "print({'a', 'b', 'c', 'd'}, hash('x'))"
    assert run(program).stdout == run(program).stdout


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit(0)", "exit code 0"),
        ("import os; os._exit(0)", "exit code 0"),
        ("raise SystemExit", "exit code 0"),
        ("import sys; sys.exit('no')", "exit code 1"),
        ("print('completed\\n' * 9, flush=True); import os; os._exit(0)", "exit code 0"),
        (  # what looks like a report, in every file that it has
            "import os\nfor fd in range(64):\n"
            "    try: os.write(fd, b'\\n' + b'0' * 32 + b' completed\\n')\n"
            "    except OSError: pass\n"
            "os._exit(0)",
            "exit code 0",
        ),
    ],
)
def test_ending_early_is_no_pass_whatever_the_program_prints(program: str, message: str):
    outcome = run(program, tests="assert False")
    assert outcome.ended is Ended.EXITED
    assert message in outcome.message


def test_a_report_that_is_garbled_is_no_pass():
    outcome = run("import os\nfor fd in range(3, 64):\n    try: os.close(fd)\n    except OSError: pass")
    assert outcome.ended in (Ended.EXITED, Ended.RAISED)


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("import os\nfor _ in range(8): os.fork()", Ended.RAISED),
        ("import os\nfor _ in range(8):\n    try: os.fork()\n    except OSError: pass\nprint('x')", Ended.COMPLETED),
        ("import threading\nthreading.Thread(target=print).start()", Ended.RAISED),
        ("import multiprocessing\nmultiprocessing.Process(target=print).start()", Ended.RAISED),
        ("import subprocess\nsubprocess.run(['/bin/true'])", Ended.RAISED),
        ("import os\nos.execv('/bin/true', ['true'])", Ended.RAISED),
        ("import os\nos.posix_spawn('/bin/true', ['true'], {})", Ended.RAISED),
        ("import ctypes\nassert ctypes.CDLL(None).vfork() >= 0", Ended.RAISED),
        ("import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()", Ended.RAISED),
    ],
)
def test_a_program_has_one_process_and_one_thread(program: str, ended: Ended):
    outcome = run(program)
    assert (outcome.ended, outcome.stdout) == (ended, "x\n" if ended is Ended.COMPLETED else "")
    assert processes() == []


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("x = [0] * 10**9", Ended.MEMORY),
        ("x = []\nwhile True: x.append(bytearray(10**6))", Ended.MEMORY),
        ("import mmap\nmmap.mmap(-1, 10**10)", Ended.RAISED),
        ("import os\nos.memfd_create('x')", Ended.RAISED),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", Ended.RAISED),
        ("while True: print('x' * 1000)", Ended.OUTPUT),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", Ended.OUTPUT),
        ("def f(): f()\nf()", Ended.RAISED),
        ("import ctypes\nctypes.string_at(0)", Ended.KILLED),
        ("import os\nos.abort()", Ended.KILLED),
    ],
)
def test_memory_and_output_are_bounded(program: str, ended: Ended):
    assert run(program).ended is ended


@pytest.mark.parametrize(
    "prelude",
    [
        "",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n",
    ],
)
def test_a_loop_without_end_gets_its_cpu_seconds_whatever_it_does_with_signals(prelude: str):
    program = prelude + "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    outcome = run(program, limits=ONE_SECOND)
    assert (outcome.ended, outcome.message) == (Ended.TIMEOUT, "used 1 s of CPU")


def test_a_program_that_sleeps_gets_its_seconds_and_is_gone():
    outcome = run("import time\ntime.sleep(1000)", limits=Limits(wall_s=3.0))
    assert (outcome.ended, outcome.message) == (Ended.TIMEOUT, "still running after 3 s")
    assert processes() == []


def test_a_program_goes_with_the_process_that_runs_it():
    code = "from verifiers import sandbox; sandbox.run({'sleeps': 'import time; time.sleep(1000)'})"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        wait_until(confined)
        parent.kill()
    wait_until(lambda: processes() == [])


def test_a_program_that_somebody_else_kills_gets_no_verdict():
    with ThreadPoolExecutor(1) as thread:
        verdict = thread.submit(run, "import time\ntime.sleep(1000)")
        wait_until(confined)
        [pid] = processes()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SandboxError):
            verdict.result(timeout=30)


def test_no_file_can_be_written(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.write_text("before")
    inode, path, new = changed(mine), str(mine), str(tmp_path / "new")
    attempts = [
        f"open({path!r}, 'w')",
        f"open({path!r}, 'a').write('x')",
        f"open({path!r}, 'r+')",
        f"open({new!r}, 'x')",
        "open('here', 'w')",
        "tempfile.NamedTemporaryFile(dir='.')",
        f"os.open({path!r}, os.O_RDONLY | os.O_TRUNC)",
        f"os.open({str(tmp_path)!r}, os.O_TMPFILE | os.O_RDWR)",
        f"os.truncate({path!r}, 0)",
        f"os.remove({path!r})",
        f"os.rename({path!r}, {new!r})",
        f"os.link({path!r}, {new!r})",
        f"os.symlink('/', {new!r})",
        f"os.mkdir({new!r})",
        f"os.mkfifo({new!r})",
        f"os.chmod({path!r}, 0)",
        f"os.chown({path!r}, 1, 1)",
        f"os.utime({path!r})",
        f"os.setxattr({path!r}, 'user.x', b'1')",
    ]
    assert allowed(attempts) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]
    assert (mine.read_text(), changed(mine)) == ("before", inode)


def test_the_folder_of_a_program_is_empty_and_goes_with_it():
    folder = run("import os; print(os.getcwd())").stdout.strip()
    assert Path(folder).name.startswith("headrace-sandbox-")
    assert not Path(folder).exists()


@pytest.mark.skipif(not confinement.landlock_version(), reason="this kernel has no Landlock")
def test_no_file_of_the_host_can_be_read(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("the answer")
    attempts = [
        f"open({str(secret)!r}).read()",
        f"os.listdir({str(tmp_path)!r})",
        "os.listdir('.')",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        f"open('/proc/{os.getpid()}/mem', 'rb')",
        f"open('/proc/{os.getpid()}/cmdline').read()",
    ]
    assert allowed(attempts) == []


def test_nothing_arrives_at_a_listening_socket():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        attempts = [
            f"socket.create_connection(('127.0.0.1', {port}), timeout=1)",
            f"urllib.request.urlopen('http://127.0.0.1:{port}')",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "socket.socket(socket.AF_UNIX)",
            "socket.socketpair()",
        ]
        assert allowed(attempts, "PermissionError, urllib.error.URLError") == []
        with pytest.raises(BlockingIOError):
            server.accept()


def test_other_processes_and_the_kernel_are_out_of_reach():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        pid = bystander.pid
        attempts = [
            "os.kill(os.getppid(), 0)",
            f"os.kill({pid}, 0)",
            "os.kill(-1, 0)",
            "os.killpg(os.getpid(), 0)",
            f"os.pidfd_open({pid})",
            f"fcntl.fcntl(1, fcntl.F_SETOWN, {pid})",
            "fcntl.ioctl(1, 0x5412, b'x')",  # TIOCSTI: types into a terminal
            f"os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
            f"os.sched_setaffinity({pid}, [0])",
            f"resource.prlimit({pid}, resource.RLIMIT_NOFILE, (3, 3))",
            "os.setsid()",
        ]
        if os.uname().machine == "x86_64":
            attempts += [
                f"raw(101, 16, {pid}, 0, 0)",  # ptrace
                f"raw(310, {pid}, 0, 0, 0)",  # process_vm_readv
                "raw(157, 1, 0)",  # prctl: live on when the parent dies
                "raw(165, 0, 0, 0, 0)",  # mount
                "raw(250, 0, 0)",  # keyctl
                "raw(272, 0x10000000)",  # unshare
                "raw(321, 0, 0, 0)",  # bpf
                "raw(323, 0)",  # userfaultfd
                "raw(425, 8, 0)",  # io_uring_setup
                "raw(435, 0, 0)",  # clone3
                "raw(437, -100, b'/', 0, 0)",  # openat2
            ]
        assert allowed(attempts) == []
        assert bystander.poll() is None
        bystander.kill()


def test_root_keeps_one_capability():
    code = (
        "from verifiers.confinement import _drop_capabilities; _drop_capabilities();"
        "print([line.split()[1] for line in open('/proc/self/status') if line[:6] in ('CapInh', 'CapPrm', 'CapEff')])"
    )
    held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    inheritable, permitted, effective = (int(mask, 16) for mask in ast.literal_eval(held))
    assert (inheritable, permitted & ~0b100, effective & ~0b100) == (0, 0, 0)


def test_a_call_of_the_x32_abi_ends_the_program():
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is of x86-64")
    outcome = run("import ctypes\nctypes.CDLL(None).syscall(0x40000000 + 39)")
    assert (outcome.ended, outcome.message) == (Ended.KILLED, "killed by SIGSYS")


def test_the_environment_and_the_open_files_of_the_host_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADRACE_SECRET", "the answer")
    with open(tmp_path / "open", "w") as mine:
        os.set_inheritable(mine.fileno(), True)
        outcome = run(
            "import os\nassert 'the answer' not in str(os.environ)\n"
            "for fd in range(3, 64):\n    try: os.write(fd, b'x')\n    except OSError: pass"
        )
    assert outcome.ended is Ended.COMPLETED
    assert (tmp_path / "open").read_text() == ""


def test_a_kernel_that_refuses_is_an_error_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "confinement.py"
    source = Path(confinement.__file__).read_text()
    script.write_text(source.replace("_SECCOMP_MODE_FILTER, _KILL", "_SECCOMP_MODE_FILTER, _KILL = 99, 0\n_X, _KILL"))
    monkeypatch.setattr(sandbox, "_SCRIPT", str(script))
    with pytest.raises(SandboxError, match=r"could not be set up.*prctl 22: Invalid argument"):
        sandbox.run({"solution": "print('ran')"})


def test_a_fault_of_the_system_is_an_error_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch):
    def too_old(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", too_old)
    with pytest.raises(SandboxError, match=r"could not be started: .*Function not implemented"):
        run("import time\ntime.sleep(1000)")
    assert processes() == []


def test_another_platform_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    mac = os.uname_result(("Darwin", "host", "25", "1", "arm64"))
    monkeypatch.setattr(os, "uname", lambda: mac)
    with pytest.raises(SandboxError, match=r"wanted 64-bit Linux on x86_64 or aarch64 .* got Darwin on arm64"):
        sandbox.check()


def test_the_filter_of_the_other_machine_has_the_same_shape():
    for machine, audit in (("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)):
        program = confinement.seccomp_filter(machine)
        assert program[1] == (0x15, 1, 0, audit)
        assert program[-1][0] == 0x06  # every path returns
        for index, (_, true, false, _) in enumerate(program):
            assert index + 1 + max(true, false) <= len(program)


@pytest.mark.parametrize("name", ["cpu_s", "memory_mib", "output_kib", "wall_s"])
def test_limits_are_positive(name: str):
    with pytest.raises(ValueError, match=f"sandbox: {name} must be"):
        Limits(**{name: 0})


def wait_until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def confined() -> bool:
    """Whether there is a program under a seccomp filter."""
    return any("Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text() for pid in processes())


def changed(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_nlink, stat.st_mtime_ns, stat.st_ctime_ns)


def processes() -> list[int]:
    """Of the sandbox, whoever their parent is now."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and confinement.__file__.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found
