"""Real processes, stopped and killed."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.waiting import wait_until

ACTOR = """
import subprocess, sys
from orchestrator.child_processes import end_children_with_this_process
end_children_with_this_process()
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
print(child.pid, flush=True)
child.wait()
"""
PARENT = f"""
import subprocess, sys
actor = subprocess.Popen([sys.executable, "-c", {ACTOR!r}], stdout=subprocess.PIPE, text=True)
print(actor.pid, actor.stdout.readline(), flush=True)
actor.wait()
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def test_children_that_ignore_being_asked_end_with_an_actor_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ACTOR], stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdout is not None
        child = int(actor.stdout.readline())
        actor.kill()  # nothing is stopped here, so no SIGHUP of the kernel helps
        wait_until(lambda: gone(child))


def test_children_end_with_an_actor_that_is_killed_also_those_that_are_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", ACTOR], stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdout is not None
        child = int(actor.stdout.readline())
        stop(child)
        actor.kill()
        wait_until(lambda: gone(child))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal at a parent's death is Linux's")
def test_a_stopped_actor_and_its_children_end_with_their_node() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        actor, child = map(int, node.stdout.readline().split())
        stop(actor)
        stop(child)
        node.kill()
        wait_until(lambda: gone(actor) and gone(child))
