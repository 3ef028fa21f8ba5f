"""A local Ray that outlives the command which started it: a process of its own holds it until it is told to end.

python -m orchestrator.pools.local_ray NUM_CPUS ADDRESS_FILE
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from orchestrator.core.config import RayConfig
from orchestrator.core.errors import ReplicaError

_START_S = 300.0  # for several attempts, of up to a minute each on a busy machine
_END_S = 30.0


def start(num_cpus: int, address_file: Path, log: Path) -> tuple[str, int]:
    """The address of a new local Ray, and the process that holds it. Raises ReplicaError when it does not start."""
    address_file.unlink(missing_ok=True)
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.pools.local_ray", str(num_cpus), str(address_file)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C here does not reach it
        )
    deadline = time.monotonic() + _START_S
    try:
        while not address_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ReplicaError(f"pool: a local Ray did not start; {log} says why")
            time.sleep(0.1)
        address = address_file.read_text(encoding="utf-8")
        address_file.unlink()
    except BaseException:  # Ctrl-C, too
        with suppress(psutil.NoSuchProcess):
            _end(psutil.Process(process.pid))
        process.wait()
        raise
    return address, process.pid


def end(pid: int) -> None:
    """Ends the process that holds a local Ray, and the Ray with it."""
    with suppress(psutil.NoSuchProcess):
        if runs(pid):
            _end(psutil.Process(pid))


def runs(pid: int) -> bool:
    """Whether it is such a process: another one may have the number by now."""
    try:
        return __name__ in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False


def _end(process: psutil.Process) -> None:
    """Raises NoSuchProcess where it has ended."""
    children = process.children(recursive=True)
    process.terminate()
    _, left = psutil.wait_procs([process, *children], timeout=_END_S)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def main(num_cpus: int, address_file: Path) -> None:
    from orchestrator.cluster import connected

    ended = threading.Event()

    def finish(signum: int, frame: FrameType | None) -> None:
        ended.set()

    with connected(RayConfig(num_cpus=num_cpus), num_cpus):
        import ray

        signal.signal(signal.SIGTERM, finish)
        signal.signal(signal.SIGINT, finish)
        partly = address_file.with_suffix(f".{os.getpid()}")
        partly.write_text(ray.get_runtime_context().gcs_address, encoding="utf-8")
        partly.replace(address_file)
        ended.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
