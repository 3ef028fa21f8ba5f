"""Mathematical equivalence by math-verify, in a process of its own: sympy can hang, and is then killed."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.pool import Pool
from threading import Lock


class Equivalence:
    """Owns the process, which the first comparison starts (some seconds). Threads take turns at it."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._pool: Pool | None = None
        self._turn = Lock()  # so that a timeout is about one comparison alone

    def compare(self, reference: str, answers: Sequence[str | None]) -> list[bool]:
        """Whether each answer is the reference's equal; None is no answer. Raises TimeoutError."""
        distinct = sorted({answer for answer in answers if answer is not None})
        with self._turn:
            if self._pool is None:
                self._pool = get_context("spawn").Pool(1)
            pending = self._pool.apply_async(_equivalent, (reference, distinct))
            try:
                verdicts = dict(zip(distinct, pending.get(self._timeout_s), strict=True))
            except multiprocessing.TimeoutError:
                self.close()
                raise TimeoutError(f"the comparison of answers did not end within {self._timeout_s:g} s") from None
        return [answer is not None and verdicts[answer] for answer in answers]

    def close(self) -> None:
        """Ends the process. A later comparison starts another one."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


def _equivalent(reference: str, answers: list[str]) -> list[bool]:
    """math-verify limits each comparison by an alarm, which works in a process's main thread only: so here."""
    from math_verify import parse, verify

    gold = parse(f"\\boxed{{{reference}}}")
    return [answer == reference or verify(gold, parse(f"\\boxed{{{answer}}}")) for answer in answers]
