"""The terminal while a sweep runs: a line for each cell, as many as fit, and a line for all of it."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from experiments.analysis.answer_shares import Shares, Watch
from experiments.analysis.tables import NARROW
from experiments.sweeping.sharing import Key
from orchestrator.core.ledger import Budget
from orchestrator.results import CandidateRow, ProblemRow

_OTHER_LINES = 8  # of the terminal beside the cells


class Stage(StrEnum):
    waiting = "waiting"
    running = "running"
    replaying = "replaying"
    done = "done"
    failed = "failed"


_STYLES = {Stage.running: "bold", Stage.replaying: "bold", Stage.done: "green", Stage.failed: "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What there is to do in a cell, as its run begins."""

    name: str  # the cell's
    shown: str  # the cell in a table
    total: int  # searches
    done: int  # of them, before
    left: Mapping[Key, int]  # searches that the models are needed for
    sizes: Mapping[Key, int]  # the most candidates of a search, where that is known
    budget: Budget  # of the run


@dataclass(slots=True)
class _Line:
    """Owner of what one cell has come to."""

    work: Work
    done: int
    left: Counter[Key]
    stage: Stage = Stage.waiting
    began: float | None = None
    seconds: float = 0.0  # with the models
    tokens: int = 0
    candidates: int = 0
    verifier_tokens: int = 0
    flops: float = 0.0
    errors: int = 0
    shares: Shares = field(default_factory=Shares)
    watch: Watch = field(default_factory=Watch)


class SweepView:
    """Implements the sweep's `Watch`. Owner of what is shown."""

    def __init__(self, console: Console, works: Sequence[Work], clock: Callable[[], float] = time.monotonic) -> None:
        """`works` in the order in which the cells run."""
        self._console = console
        self._clock = clock
        self._lines = {work.name: _Line(work=work, done=work.done, left=Counter(work.left)) for work in works}
        for line in self._lines.values():
            if line.done == line.work.total:
                line.stage = Stage.done
        self._current: _Line | None = None
        self._doing = "starting"
        self._spent: dict[Key, list[float]] = {}  # by search: its rows and their tokens
        self._live: Live | None = None

    def __enter__(self) -> "SweepView":
        if self._console.is_terminal:
            self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, cell: str, *, replaying: bool) -> None:
        line = self._current = self._lines[cell]
        line.stage, line.began = (Stage.replaying if replaying else Stage.running), None
        self._doing = line.stage.value
        self._say(f"{line.stage}: {cell}")

    def stage(self, stage: str) -> None:
        self._doing = stage
        if self._current is not None and stage == "running":
            self._current.began = self._clock()
        self._say(f"  {stage}")

    def row(self, row: ProblemRow, candidates: Sequence[CandidateRow]) -> None:
        line = self._current
        assert line is not None, "rows come after `begin`"
        key = (row.strategy, row.params)
        line.done += 1
        line.errors += row.status == "error"
        if line.stage is Stage.running:
            line.left[key] -= 1
            line.tokens += row.generated_tokens
            line.candidates += row.num_candidates
            line.verifier_tokens += row.verifier_tokens
            line.flops += row.policy_flops + row.verifier_flops
            count, tokens = self._spent.get(key, [0.0, 0.0])
            self._spent[key] = [count + 1, tokens + row.generated_tokens]
        for one in candidates:
            answer, status, undecided, text = one.answer, one.status, one.undecided, one.text
            line.shares = line.shares.with_one(answer=answer, status=status, undecided=undecided, text=text)
            for warning in line.watch.warnings(answer=answer, status=status, undecided=undecided, text=text):
                self.note(f"warning: {line.work.name}: {warning}")

    def note(self, note: str) -> None:
        self._console.print(note, highlight=False, markup=False, soft_wrap=True)

    def end(self, cell: str, error: str | None) -> None:
        line = self._lines[cell]
        line.seconds += 0.0 if line.began is None else self._clock() - line.began
        line.began = None
        whole = line.done >= line.work.total
        line.stage = Stage.failed if error is not None else Stage.done if whole else Stage.waiting
        self._current = None
        if error is not None:
            self._console.print(f"[red]failed:[/] {escape(cell)}: {escape(error)}", highlight=False, soft_wrap=True)
        else:
            self._say(f"  {line.stage}: {line.done:,} of {line.work.total:,} searches{_told(line)}")

    def render(self) -> Group:
        """What the terminal shows now."""
        lines = list(self._lines.values())
        room = max(5, self._console.height - _OTHER_LINES)
        current = next((i for i, line in enumerate(lines) if line is self._current), 0)
        first = min(max(0, current - 2), max(0, len(lines) - room))
        shown = lines[first : first + room]
        parts: list[Table | Text] = [self._table(shown)]
        around = [
            f"{count} {where}" for count, where in ((first, "before"), (len(lines) - first - len(shown), "after"))
        ]
        if first or len(lines) > first + len(shown):
            parts.append(Text(f"and {' and '.join(part for part in around if part[0] != '0')} these", style="dim"))
        parts.append(Text(self._summary(lines), style="bold"))
        return Group(*parts)

    def _table(self, lines: Sequence[_Line]) -> Table:
        wide = self._console.width >= NARROW
        capped = any(_caps(line.work.budget) for line in self._lines.values())
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, 1, 0, 0))
        table.add_column("cell", overflow="fold", ratio=1 if wide else None)
        for header in ("", "searches", "tokens/s", "left", *(["budget"] if capped else []), "no answer", "errors"):
            table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)
        for line in lines:
            rate = self._rate(line)
            table.add_row(
                escape(line.work.shown),
                line.stage.value,
                f"{line.done:,}/{line.work.total:,}",
                "-" if rate is None else f"{rate:,.0f}",
                _duration(self._seconds_left([line])) if line.stage is not Stage.done else "",
                *([_budget_used(line, self._seconds(line))] if capped else []),
                f"{line.shares.no_answer / line.shares.candidates:.0%}" if line.shares.candidates else "-",
                f"[red]{line.errors}[/]" if line.errors else "0",
                style=_STYLES.get(line.stage, "dim"),
            )
        return table

    def _summary(self, lines: Sequence[_Line]) -> str:
        total, done = sum(line.work.total for line in lines), sum(line.done for line in lines)
        num_done = sum(line.stage is Stage.done for line in lines)
        failed = sum(line.stage is Stage.failed for line in lines)
        rate, left = self._mean_rate(), self._seconds_left([line for line in lines if line.stage is not Stage.failed])
        parts = [
            self._doing,
            f"{num_done}/{len(lines)} cells",
            f"{done:,}/{total:,} searches",
            *([f"{rate:,.0f} tokens/s"] if rate is not None else []),
            *([f"{_duration(left)} left"] if left else []),
            *([f"{failed} failed"] if failed else []),
        ]
        return " · ".join(parts)

    def _seconds(self, line: _Line) -> float:
        return line.seconds + (0.0 if line.began is None else self._clock() - line.began)

    def _rate(self, line: _Line) -> float | None:
        seconds = self._seconds(line)
        return line.tokens / seconds if line.tokens and seconds > 0 else None

    def _mean_rate(self) -> float | None:
        seconds = sum(map(self._seconds, self._lines.values()))
        tokens = sum(line.tokens for line in self._lines.values())
        return tokens / seconds if tokens and seconds > 0 else None

    def _seconds_left(self, lines: Sequence[_Line]) -> float | None:
        """By the tokens that searches of a kind took so far; of a kind that none was run of, by its candidates. None
        while nothing tells. Models are not told apart: cells of a larger one take longer."""
        own = self._rate(lines[0]) if len(lines) == 1 else None
        rate = own or self._mean_rate()
        if rate is None:
            return None
        tokens = 0.0
        for line in lines:
            for key, count in line.left.items():
                if count > 0:
                    each = self._tokens_of(key, line.work.sizes)
                    if each is None:
                        return None
                    tokens += count * each
        return tokens / rate

    def _tokens_of(self, key: Key, sizes: Mapping[Key, int]) -> float | None:
        if key in self._spent:
            count, tokens = self._spent[key]
            return tokens / count
        candidates = sum(line.candidates for line in self._lines.values())
        if key not in sizes or not candidates:
            return None
        return sizes[key] * sum(line.tokens for line in self._lines.values()) / candidates

    def _say(self, text: str) -> None:
        """Where there is no terminal, each change is a line."""
        if self._live is None:
            self.note(text)


def _told(line: _Line) -> str:
    told = f", {line.errors} errors" if line.errors else ""
    if line.shares.no_answer:
        told += f", {line.shares.no_answer / line.shares.candidates:.0%} without an answer"
    return told


def _caps(budget: Budget) -> dict[str, float]:
    caps = {name: getattr(budget, name) for name in Budget.__dataclass_fields__}
    return {name: float(cap) for name, cap in caps.items() if cap is not None}


def _budget_used(line: _Line, seconds: float) -> str:
    """Of the cap that is nearest, by what this command has spent."""
    caps = _caps(line.work.budget)
    if not caps:
        return "-"
    spent = {
        "policy_tokens": line.tokens,
        "verifier_tokens": line.verifier_tokens,
        "flops": line.flops,
        "candidates": line.candidates,
        "seconds": seconds,
    }
    return f"{max(spent[name] / cap for name, cap in caps.items()):.0%}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d}"
