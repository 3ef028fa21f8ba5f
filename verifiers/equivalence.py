"""Mathematical equivalence in a process of its own, because algebra can take forever. Most answers never get there.

A comparison is bounded by the CPU time that it takes, never by the clock: a busy machine changes no verdict. The kernel
ends the process at the bound, also inside a computation that Python can't interrupt. What was not decided is tried once
more with more time, and is then undecided, with the reason; never unequal.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from orchestrator.core.nouns import Comparison
from verifiers.equality import quick

_CPU_S = (4, 12)  # of the first try and of the second
_WALL_S = 600.0  # for a process that neither answers nor computes: somebody stopped it
_MEMORY_MIB = 4096
_CACHED = 65536  # comparisons
_MOST_DISTINCT = 64  # answers of a vote that are compared with each other by algebra; the rest by `quick` alone
_ROOT = Path(__file__).resolve().parent.parent


class Equivalence:
    """Owner of the process, which the first hard comparison starts (some seconds), and of the verdicts so far. Threads
    take turns."""

    def __init__(self, cpu_s: Sequence[int] = _CPU_S) -> None:
        """`cpu_s`: seconds of CPU time of each try."""
        self._cpu_s = cpu_s
        self._process: subprocess.Popen[str] | None = None
        self._decided: OrderedDict[tuple[str, str], Comparison] = OrderedDict()
        self._turn = Lock()

    def compare(self, reference: str, answers: Sequence[str | None]) -> list[Comparison]:
        """Each answer with the reference; no answer is not equal."""
        with self._turn:
            return [
                Comparison(equal=False) if answer is None else self._compared(reference, answer) for answer in answers
            ]

    def classes(self, answers: Sequence[str | None]) -> list[int | None]:
        """Equal numbers for equal answers, in the order in which they come up; None for no answer. An answer is equal
        to the first of a class or to none of it. What is undecided is a class of its own."""
        numbers: dict[str, int] = {}
        firsts: list[str] = []
        with self._turn:
            for answer in dict.fromkeys(answer for answer in answers if answer is not None):
                hard = len(firsts) < _MOST_DISTINCT
                found = next((i for i, first in enumerate(firsts) if self._are_equal(first, answer, hard)), None)
                if found is None:
                    found = len(firsts)
                    firsts.append(answer)
                numbers[answer] = found
        return [None if answer is None else numbers[answer] for answer in answers]

    def close(self) -> None:
        """Ends the process. A later comparison starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _are_equal(self, a: str, b: str, hard: bool) -> bool:
        """In either order: an answer may say more than another (`m + n = 204` than `204`)."""
        return quick(a, b) is True or quick(b, a) is True or (hard and self._compared(a, b).equal is True)

    def _compared(self, reference: str, answer: str) -> Comparison:
        key = (reference, answer)
        if (known := self._decided.get(key)) is not None:
            self._decided.move_to_end(key)
            return known
        verdict = quick(reference, answer)
        comparison = Comparison(equal=verdict) if verdict is not None else self._by_algebra(reference, answer)
        self._decided[key] = comparison
        if len(self._decided) > _CACHED:
            self._decided.popitem(last=False)
        return comparison

    def _by_algebra(self, reference: str, answer: str) -> Comparison:
        reason = ""
        for cpu_s in self._cpu_s:
            try:
                reply = self._asked({"reference": reference, "answer": answer, "cpu_s": cpu_s})
            except _Ended as error:
                self.close()
                reason = str(error)
                continue
            if reply["equal"] is not None:
                return Comparison(equal=bool(reply["equal"]))
            reason = str(reply["reason"])
        return Comparison(equal=None, reason=f"{answer!r:.80} against {reference!r:.80}: {reason}")

    def _asked(self, question: dict[str, object]) -> dict[str, object]:
        """The process's answer. Raises _Ended."""
        process = self._process or self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise _Ended(f"the process had ended with status {process.wait()}") from None
        ready, _, _ = select.select([process.stdout], [], [], _WALL_S)
        if not ready:
            raise _Ended(f"the process did not answer for {_WALL_S:g} s")
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            took_too_long = status in (-signal.SIGXCPU, -signal.SIGKILL)
            bound = f"not decided within {question['cpu_s']} s of CPU time"
            raise _Ended(bound if took_too_long else f"the process ended with status {status}")
        reply: dict[str, object] = json.loads(line)
        return reply

    def _started(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "verifiers.equivalence_process", str(_MEMORY_MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        return self._process


class _Ended(Exception):
    """The process is gone, or does not answer."""
