"""`headrace sweep CONFIG --dry-run`: the cells, and what is left of each in tokens, FLOPs and hours. It needs neither
models nor data nor a network, and says in words what it can't know without them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.analysis.tables import Cells, si
from experiments.config import RunConfig, load_data
from experiments.data.published import RecordsConfig
from experiments.running.check import check_files
from experiments.sweeping.cells import Cell, Sweep
from experiments.sweeping.estimate import Estimate, Measured, estimate, read_measured
from experiments.sweeping.folder import done_keys
from experiments.sweeping.sharing import Key, Search, key_of, shared_samples
from orchestrator.core.errors import NotHere, UserError
from orchestrator.results.folder import check_results_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known of a cell before it runs. Counts are None where the number of problems is not known."""

    cell: Cell
    own: int | None  # searches that the models are needed for
    replayed: int | None  # searches that others' samples answer
    done: int
    estimate: Estimate
    missing: tuple[str, ...]  # what this machine has not, in words


def outlooks(sweep: Sweep, likes: Sequence[Path] = (), *, fresh: bool = False) -> list[Outlook]:
    """`likes`: folders of earlier runs. `fresh`: rows that are there will be replaced. Raises UserError."""
    for folder in likes:
        check_results_folder(folder)
    sources = [found for folder in likes if (found := read_measured(folder)) is not None]
    if likes and not sources:
        raise UserError(f"--like: {likes[0]} holds no rows that sampled")
    sources += [found for cell in sweep.cells if (found := _rows_of(cell, fresh)) is not None]
    shared = shared_samples(sweep.cells)
    counts: dict[str, tuple[int | None, str | None]] = {}
    return [_outlook(cell, shared, sources, counts, fresh) for cell in sweep.cells]


def _rows_of(cell: Cell, fresh: bool) -> Measured | None:
    return None if fresh else read_measured(cell.folder)


def _outlook(
    cell: Cell,
    shared: Mapping[Search, Search],
    sources: Sequence[Measured],
    counts: dict[str, tuple[int | None, str | None]],
    fresh: bool,
) -> Outlook:
    data = repr(cell.config.data)
    if data not in counts:
        counts[data] = _num_problems(cell.config)
    num_problems, why = counts[data]
    missing = [why] if why else []
    try:
        check_files(cell.parts)
    except NotHere as error:
        missing.append(str(error))
    done = set() if fresh else done_keys(cell)
    answered = {search.key for search in shared if search.cell == cell.name}
    num_done = {key_of(named): 0 for named in cell.parts.strategies}
    for _, strategy, params, _ in done:
        num_done[strategy, params] += 1
    left: dict[Key, int] = {}
    if num_problems is not None:
        left = {key: max(0, num_problems * len(cell.config.seeds) - count) for key, count in num_done.items()}
    own = {key: count for key, count in left.items() if key not in answered}
    return Outlook(
        cell=cell,
        own=None if num_problems is None else sum(own.values()),
        replayed=None if num_problems is None else sum(left.values()) - sum(own.values()),
        done=len(done),
        estimate=estimate(cell, own, sources) if num_problems is not None else Estimate(),
        missing=tuple(missing),
    )


def _num_problems(config: RunConfig) -> tuple[int | None, str | None]:
    """And why the number is not sure, or not known."""
    data = config.data
    if isinstance(data, RecordsConfig) and data.path is None and data.tables:
        if data.num_problems is not None:
            return data.num_problems, None
        return None, f"data: how many problems {data.name} has is known when it is downloaded, or set data.num_problems"
    try:
        return len(load_data(data).examples), None
    except NotHere as error:
        return data.num_problems, str(error)


def table(sweep: Sweep, found: Sequence[Outlook]) -> Cells:
    rows = [
        [
            shown(one.cell),
            _count(one.own),
            _count(one.replayed),
            f"{one.done:,}",
            _amount(one.estimate.tokens, one.estimate, si),
            _amount(one.estimate.flops, one.estimate, si),
            _amount(one.estimate.hours, one.estimate, _hours),
        ]
        for one in found
    ]
    if len(found) > 1:
        rows.append(["all cells", *_totals(found)])
    num = len(sweep.cells)
    return Cells(
        title=f"{sweep.name}: {num} cell{'s' if num > 1 else ''} ({' · '.join(axis.key for axis in sweep.axes)})",
        headers=("cell", "to run", "replayed", "done", "tokens", "FLOPs", "hours"),
        rows=rows,
    )


def shown(cell: Cell) -> str:
    """A cell in a table: its choices, in the order of the axes."""
    return " · ".join(cell.choices)


def notes(found: Sequence[Outlook]) -> list[str]:
    """What the numbers are, and what is not known."""
    lines = ["to run: searches that need the models; replayed: answered from samples of the same sweep, at no tokens"]
    if sources := dict.fromkeys(source for one in found for source in one.estimate.sources):
        some = list(sources)
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        lines.append(
            f"estimated from the rows of {', '.join(some[:3])}{more}; hours at the speed of those rows, for as many "
            "replicas as are set"
        )
    if any(one.estimate.at_most for one in found):
        lines.append("<=: at most, by sampling.max_tokens or a budget: no rows tell how long the samples are")
    if unknown := dict.fromkeys(name for one in found for name in one.estimate.unknown):
        lines.append(f"not in the numbers: what {', '.join(unknown)} costs; no rows tell")
    if any(one.own and (one.estimate.tokens is None or one.estimate.hours is None) for one in found):
        lines.append("to know more: --probe 4 runs the first 4 problems of each cell; --like RUN names an earlier run")
    by_why: dict[str, int] = {}
    for one in found:
        for why in one.missing:
            by_why[why] = by_why.get(why, 0) + 1
    lines += [f"not here ({count} cell{'s' if count > 1 else ''}): {why}" for why, count in by_why.items()]
    return lines


def _totals(found: Sequence[Outlook]) -> list[str]:
    """Of all cells; a part that is not known makes it a sum of the others, which says so."""
    columns = []
    for counts in ([one.own for one in found], [one.replayed for one in found], [one.done for one in found]):
        known = [count for count in counts if count is not None]
        columns.append(f"{sum(known):,}" + (" + ?" if len(known) < len(counts) else ""))
    for name, show in (("tokens", si), ("FLOPs", si), ("hours", _hours)):
        amounts = [getattr(one.estimate, name.lower()) for one in found]
        known_amounts = [amount for amount in amounts if amount is not None]
        unsure = len(known_amounts) < len(amounts) or any(one.estimate.unknown for one in found)
        bound = "<= " if name == "tokens" and any(one.estimate.at_most for one in found) else ""
        total = sum(known_amounts)
        columns.append("?" if unsure and not total else f"{bound}{show(total)}{' + ?' if unsure else ''}")
    return columns


def _count(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _amount(amount: float | None, of: Estimate, show: Callable[[float], str]) -> str:
    if amount is None:
        return "?"
    return f"{'<= ' if of.at_most else ''}{show(amount)}{' + ?' if of.unknown else ''}"


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"
