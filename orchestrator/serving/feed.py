"""What has happened in a search and was not sent yet. Bounded: a client that reads slowly makes it hold no more."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from orchestrator.core.search_events import AnswerChosen, BudgetUsed, Dropped, SearchEvent, TextWritten, Voted

_MOST_WAITING = 1000  # a few hundred KB, where steps are short; a search makes some hundreds of them in a second
_LATEST = (BudgetUsed, Voted)  # of two in a row the second says all


class Feed:
    """Implements `Observer`. Text is never lost: it waits as one piece. Of what else happens, what finds no room is
    dropped, and the reader is told how much."""

    def __init__(self, *, progress: bool, most_waiting: int = _MOST_WAITING) -> None:
        """Without `progress` it holds text alone."""
        self._progress = progress
        self._most_waiting = most_waiting
        self._waiting: deque[SearchEvent] = deque()
        self._num_dropped = 0
        self.on_news: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._waiting)

    def __call__(self, event: SearchEvent) -> None:
        last = self._waiting[-1] if self._waiting else None
        if isinstance(event, TextWritten):
            if isinstance(last, TextWritten) and (last.path, last.thinking) == (event.path, event.thinking):
                self._waiting[-1] = replace(last, text=last.text + event.text)
            else:
                self._waiting.append(event)
        elif not self._progress:
            return
        elif isinstance(event, _LATEST) and type(event) is type(last):
            self._waiting[-1] = event
        elif len(self._waiting) < self._most_waiting or isinstance(event, AnswerChosen):
            self._waiting.append(event)
        else:
            self._num_dropped += 1
        self.on_news()

    def take(self) -> list[SearchEvent]:
        """What was not taken before, in order; what was dropped came after it."""
        taken = list(self._waiting)
        if self._num_dropped:
            taken.append(Dropped(at=taken[-1].at, count=self._num_dropped))
        self._waiting.clear()
        self._num_dropped = 0
        return taken
