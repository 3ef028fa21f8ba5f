"""The shares of candidates that say nothing about how good a model is: no answer was found, a cap cut them off, or the
grader could not decide. A table shows what is above `SHOWN`; above `WARNED` a warning says which setting to change."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import pandas as pd

SHOWN = 0.01
WARNED = 0.2
_ENOUGH = 40  # candidates before the share of a run that goes on is spoken of
_ENDING = 60  # characters of a text's end that an example shows
_NUM_EXAMPLES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Counts of candidates, and the first endings in which no answer was found."""

    candidates: int = 0
    no_answer: int = 0
    cut_off: int = 0
    both: int = 0  # cut off and without an answer
    undecided: int = 0
    endings: tuple[str, ...] = ()
    reason: str | None = None  # of the first that is undecided

    def with_one(self, *, answer: str | None, status: str, undecided: str | None, text: str) -> "Shares":
        """With one more candidate."""
        cut_off = status == "truncated"
        endings = self.endings
        if answer is None and len(endings) < _NUM_EXAMPLES:
            endings = (*endings, " ".join(text[-4 * _ENDING :].split())[-_ENDING:])
        return replace(
            self,
            candidates=self.candidates + 1,
            no_answer=self.no_answer + (answer is None),
            cut_off=self.cut_off + cut_off,
            both=self.both + (cut_off and answer is None),
            undecided=self.undecided + (undecided is not None),
            endings=endings,
            reason=self.reason or undecided,
        )

    def shown(self) -> dict[str, float]:
        """By the table's headers."""
        counts = {"no answer %": self.no_answer, "cut off %": self.cut_off, "undecided %": self.undecided}
        return {name: count / max(1, self.candidates) for name, count in counts.items()}

    def warnings_by_share(self) -> dict[str, str]:
        """As `warnings`, by the share that is too large."""
        found = {}
        if self._large(self.cut_off):
            found["cut off"] = (
                f"{self._share(self.cut_off)} were cut off before they ended"
                + (f", {self.both:,} of them without an answer" if self.both else "")
                + ": raise sampling.max_tokens (or the budget)"
            )
        if self._large(self.no_answer - self.both):
            examples = " and ".join(f"«...{ending}»" for ending in self.endings)
            found["no answer"] = (
                f"{self._share(self.no_answer - self.both)} ended without an answer that could be found, and count as "
                f"wrong: set data.answer to how this model states its answers. Two endings: {examples}"
            )
        if self._large(self.undecided):
            found["undecided"] = (
                f"{self._share(self.undecided)} could not be compared with the reference, and count in no accuracy: "
                f"{self.reason}; if answers are plain strings, set data.grader: exact"
            )
        return found

    def warnings(self) -> list[str]:
        """A plain sentence for each share above the bound, with the setting to change."""
        return list(self.warnings_by_share().values())

    def _large(self, count: int) -> bool:
        return count > WARNED * self.candidates

    def _share(self, count: int) -> str:
        return f"{count / self.candidates:.0%} of {self.candidates:,} candidates"


class OnAnswer(Protocol):
    """Is told of each candidate whose answer was looked for: what `Watch.warnings` takes."""

    def __call__(self, *, answer: str | None, status: str, undecided: str | None, text: str) -> None: ...


class Watch:
    """Owner of the shares of a run that goes on: says each warning once, as soon as enough candidates bear it out."""

    def __init__(self) -> None:
        self._shares = Shares()
        self._said: set[str] = set()

    def warnings(self, *, answer: str | None, status: str, undecided: str | None, text: str) -> list[str]:
        """Those that are new with this candidate."""
        self._shares = self._shares.with_one(answer=answer, status=status, undecided=undecided, text=text)
        found = self._shares.warnings_by_share() if self._shares.candidates >= _ENOUGH else {}
        new = [warning for share, warning in found.items() if share not in self._said]
        self._said |= found.keys()
        return new


def shares_of(candidates: pd.DataFrame) -> Shares:
    """Of the rows of a results folder."""
    shares = Shares()
    for answer, status, undecided, text in _rows(candidates):
        shares = shares.with_one(
            answer=None if pd.isna(answer) else answer,
            status=status,
            undecided=None if pd.isna(undecided) else undecided,
            text=text,
        )
    return shares


def _rows(candidates: pd.DataFrame) -> Iterable[tuple[str, str, str, str]]:
    columns = ("answer", "status", "undecided", "text")
    return zip(*(candidates[name] for name in columns), strict=True)
