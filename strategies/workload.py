"""One budget of samples for a whole data set, given out online to the searches that gain most by one more.

Every problem gets its probe first. Once each has said what it would gain (or left), samples go to the highest bid. As
soon as a grant has come back another is given, so the pools never wait for the slowest problem.
"""

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, order=True)
class _Bid:
    """A search that waits. Orders by gain, the highest first; equal gains by problem id."""

    minus_gain: float
    problem_id: str
    samples: int = field(compare=False)
    answer: asyncio.Future[int] = field(compare=False)


class Workload:
    """Owner of the budget. At most `samples` are granted in all, and at most `in_flight` grants are out at a time.

    A grant is out until its problem asks again or leaves. Equal bids in equal order are answered equally. A problem
    that ends in any way must leave, or the others wait for its bid.
    """

    def __init__(self, *, num_problems: int, samples: int, in_flight: int) -> None:
        if num_problems < 1 or samples < num_problems or in_flight < 1:
            raise ValueError(
                "workload: wanted num_problems >= 1, samples >= num_problems and in_flight >= 1, "
                f"got {num_problems}, {samples} and {in_flight}"
            )
        self._num_problems = num_problems
        self._samples_left = samples
        self._in_flight = in_flight
        self._out: set[str] = set()  # problems that spend a grant
        self._probed: set[str] = set()  # or left without a probe
        self._known: set[str] = set()  # problems whose probe has come back, or that left
        self._left: set[str] = set()
        self._probes: deque[_Bid] = deque()
        self._bids: list[_Bid] = []  # a heap

    @property
    def samples_left(self) -> int:
        return self._samples_left

    async def grant(self, problem_id: str, *, gain: float, samples: int) -> int:
        """Waits for a turn; how many of the asked samples to draw now, 0 when there will be no more.

        A problem's first call is its probe, which waits for no bids. `gain` is what it expects of one more sample.
        """
        assert samples >= 1 and gain == gain and problem_id not in self._left
        self._out.discard(problem_id)
        bid = _Bid(-gain, problem_id, samples, asyncio.get_running_loop().create_future())
        if problem_id in self._probed:
            self._known.add(problem_id)
            heapq.heappush(self._bids, bid)
        else:
            self._probes.append(bid)
        self._give()
        return await bid.answer  # cancelled, it stays queued as a bid that is done, and is passed over

    def leave(self, problem_id: str) -> None:
        """Says that a problem asks for no more, for whatever reason. Leaving twice is allowed."""
        for problems in (self._probed, self._known, self._left):
            problems.add(problem_id)
        self._out.discard(problem_id)
        self._give()

    def _give(self) -> None:
        """Answers as many as may be answered now."""
        assert len(self._probed) <= self._num_problems, "more problems than the workload was opened for"
        while self._samples_left == 0 or len(self._out) < self._in_flight:
            bid = self._next()
            if bid is None:
                return
            granted = min(bid.samples, self._samples_left)
            if bid.problem_id not in self._probed:
                # a budget that is too small for all probes is shared by them
                granted = min(granted, self._samples_left // (self._num_problems - len(self._probed)))
                self._probed.add(bid.problem_id)
            self._samples_left -= granted
            if granted:
                self._out.add(bid.problem_id)
            bid.answer.set_result(granted)

    def _next(self) -> _Bid | None:
        """Takes the bid whose turn it is out of its queue; None while nobody's turn has come."""
        while self._probes:
            if not (probe := self._probes.popleft()).answer.done():
                return probe
        while self._bids and (self._samples_left == 0 or len(self._known) == self._num_problems):
            if not (bid := heapq.heappop(self._bids)).answer.done():
                return bid
        return None
