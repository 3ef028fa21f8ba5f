"""Tells an observer what happens in a search. Where there is no observer nothing of this is made."""

import math
import time
from collections.abc import Sequence

from orchestrator.core.nouns import Score, SearchResult, Selection, Trajectory
from orchestrator.core.protocols import Segment
from orchestrator.core.search_events import (
    AnswerChosen,
    BudgetUsed,
    Forked,
    Observer,
    Pruned,
    StepScored,
    StepWritten,
    TextWritten,
    Voted,
    Votes,
)
from orchestrator.core.values import made
from orchestrator.session.answer_text import AnswerText
from orchestrator.session.books import Books
from orchestrator.session.tracks import Track


class Telling:
    """Owner of the search's clock, of the text that was told, and of who voted for what when it was asked last."""

    def __init__(self, observer: Observer, books: Books, stop: Sequence[str] | None = None) -> None:
        """`stop` is given where the search's one trajectory is told as text, too: texts before which it ends."""
        self._observer = observer
        self._books = books
        self._began = time.monotonic()
        self._text = None if stop is None else AnswerText(self._tell_text, stop)
        self._groups: dict[tuple[int, ...], int | None] = {}  # of equal answers, by path

    def steps(self, track: Track) -> None:
        """Those of the track that are not known; the last one again where no other follows."""
        first, track.num_told = track.num_told, len(track.steps)
        if track.status.done:
            first = max(0, min(first, len(track.steps) - 1))
        for index in range(first, len(track.steps)):
            step = track.steps[index]
            parent = track.path[:-1] if track.path else None
            finished = track.status.done and index + 1 == len(track.steps)
            tokens = len(step.token_ids)
            self._observer(made(StepWritten, self._now(), track.path, index, parent, step.text, tokens, finished))
        self._text_of(track, len(track.steps) - track.stopped)

    def early(self, track: Track, segment: Segment) -> None:
        """Text of a step that is still being written."""
        assert self._text is not None and segment.early is not None
        self._text.early(track.path, segment.text, begin=segment.early, thinking=segment.thinking)

    def score(self, track: Track, index: int, score: Score) -> None:
        self._observer(made(StepScored, self._now(), track.path, index, score.mean, score.std))

    def fork(self, prefix: Trajectory, children: Sequence[Track]) -> None:
        paths = tuple(child.path for child in children)
        self._observer(Forked(at=self._now(), path=prefix.path, children=paths))
        for child in children:
            self._text_of(child, len(child.steps))  # what is gone on from stays

    def prune(self, path: tuple[int, ...]) -> None:
        self._observer(Pruned(at=self._now(), path=path))

    def budget(self) -> None:
        used = self._books.tally.ledger()
        self._observer(
            BudgetUsed(
                at=self._now(),
                policy_tokens=used.generated_tokens,
                verifier_tokens=used.verifier_tokens,
                candidates=used.candidates,
            )
        )

    def grouped(self, voters: Sequence[Trajectory], groups: Sequence[int | None]) -> None:
        """One vote each."""
        self._groups = {voter.path: group for voter, group in zip(voters, groups, strict=True)}
        self._vote([voter.answer for voter in voters], groups, [1.0] * len(voters))

    def result(self, result: SearchResult) -> None:
        """The last vote, where the candidates' scores weigh it, and the answer."""
        voters = result.candidates
        if result.selection is Selection.WEIGHTED and all(one.trajectory.path in self._groups for one in voters):
            self._vote(
                [one.trajectory.answer for one in voters],
                [self._groups[one.trajectory.path] for one in voters],
                [one.aggregate_score or 0.0 for one in voters],
            )
        self.budget()
        if result.chosen is not None:
            self._observer(
                AnswerChosen(
                    at=self._now(),
                    path=voters[result.chosen].trajectory.path,
                    answer=result.answer,
                    score=result.score,
                    end_reason=result.end_reason.value,
                )
            )

    def _text_of(self, track: Track, num_steps: int) -> None:
        """The first steps of the track stay."""
        if self._text is not None:
            self._text.steps(track.path, track.steps[:num_steps], ended=track.status.done)

    def _tell_text(self, path: tuple[int, ...], text: str, thinking: bool) -> None:
        self._observer(TextWritten(at=self._now(), path=path, text=text, thinking=thinking))

    def _vote(self, answers: Sequence[str | None], groups: Sequence[int | None], weights: Sequence[float]) -> None:
        names: dict[int, str] = {}
        ballots: dict[int, list[float]] = {}
        for answer, group, weight in zip(answers, groups, weights, strict=True):
            if answer is not None and group is not None:
                names.setdefault(group, answer)
                ballots.setdefault(group, []).append(weight)
        votes = [
            Votes(answer=names[group], weight=math.fsum(weights), count=len(weights))
            for group, weights in ballots.items()
        ]
        votes.sort(key=lambda vote: -vote.weight)
        self._observer(Voted(at=self._now(), answers=tuple(votes)))

    def _now(self) -> float:
        return time.monotonic() - self._began
