"""Tables for a console and for Markdown, from the same cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from experiments.analysis.intervals import Interval

NARROW = 100  # characters: a console of fewer gets the columns that matter most


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A table for the terminal and for Markdown. The first column is text, the others are numbers."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    wide: Sequence[str] = ()  # headers of the columns that a narrow console does without
    narrow: int = NARROW  # a console of fewer characters is narrow

    def rich(self, width: int) -> Table:
        """For a console of so many characters."""
        left_out = {self.headers.index(name) for name in self.wide if width < self.narrow and name in self.headers}
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        text, *numbers = (header for i, header in enumerate(self.headers) if i not in left_out)
        table.add_column(text, overflow="fold")  # where the table is too wide, the text folds and numbers stay whole
        for header in numbers:
            table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(cell for i, cell in enumerate(row) if i not in left_out))
        return table

    def markdown(self) -> str:
        lines = [self.headers, ["---"] + ["---:"] * (len(self.headers) - 1), *self.rows]
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def si(number: float) -> str:
    """Three significant digits and an SI prefix: 1.25e9 is "1.25 G"."""
    exponent = min(max(math.floor(math.log10(number)) // 3, 0), 6) if number > 0 else 0
    scaled = number / 1000**exponent
    if float(f"{scaled:.3g}") >= 1000 and exponent < 6:
        exponent, scaled = exponent + 1, scaled / 1000
    return f"{float(f'{scaled:.3g}'):g} {' kMGTPE'[exponent]}".strip()
