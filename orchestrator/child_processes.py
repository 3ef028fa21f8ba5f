"""Ties the processes of an actor together: none of them outlives the actor, and the actor not its node."""

import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def end_children_with_this_process() -> None:
    """However this process ends, its children end too, stopped ones included; and it ends with its parent.

    This process becomes the leader of a process group, which its children inherit. A shell outside the group waits
    for the end of a pipe that this process alone holds open, then ends the group. Ray kills an actor that can't answer
    only after some seconds; where Ray itself ends before, the kernel does it.
    """
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    script = 'read -r _; kill -s TERM -- "-$1"; sleep 5; kill -s KILL -- "-$1"'  # dash knows no `kill -TERM --`
    subprocess.Popen(
        ["sh", "-c", script, "sh", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
