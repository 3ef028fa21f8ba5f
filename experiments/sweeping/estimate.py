"""What a sweep will cost, from rows that are there: of its own cells (a probe, an interrupted sweep) or earlier runs.

Tokens and FLOPs of a strategy are the mean of its rows on the same model, or those of the same strategy at another n,
in proportion. Hours are tokens at the speed that those rows had, in proportion to the policy's replicas. Without rows
there is a bound where each sample is whole, or where a cap sets one. What is left is not known, and named.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.config import NamedStrategy
from experiments.sweeping.cells import Cell
from experiments.sweeping.sharing import Key, key_of
from orchestrator.core.config import most_replicas
from orchestrator.core.errors import UserError
from orchestrator.results import read_problems
from orchestrator.results.same_run import parse_config

_WHOLE_SAMPLES = ("greedy", "best_of_n", "best_logprob", "self_consistency", "adaptive_consistency", "deepconf")
_ALIKE = ("data", "sampling", "steps", "verifier", "strategies")  # parts that make rows more alike; the model must be


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Means over the rows of one strategy."""

    tokens: float
    flops: float
    n: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a results folder says about costs."""

    name: str
    config: Mapping[str, Any]
    by_search: Mapping[Key, Spent]  # by strategy and params
    tokens_per_s: float | None  # of one replica of the policy

    def likeness(self, config: Mapping[str, Any]) -> int | None:
        """How many parts are the same; None: another model wrote."""
        if self.config.get("policy", {}).get("model") != config["policy"]["model"]:
            return None
        return sum(1 for part in _ALIKE if self.config.get(part) == config.get(part))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of what is left of a cell. `at_most`: tokens are a bound. `unknown`: strategies that nothing is known of, and
    that none of the numbers holds; None where no strategy told any."""

    tokens: float | None = None
    flops: float | None = None
    hours: float | None = None
    at_most: bool = False
    sources: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def read_measured(folder: Path) -> Measured | None:
    """None where the folder holds no rows that sampled. Raises UserError for what can't be read."""
    rows = read_problems(folder)
    rows = rows[(rows["status"] == "ok") & rows["replayed_from"].isna()]
    if rows.empty:
        return None
    config_path = folder / "run.yaml"
    try:
        config = parse_config(config_path.read_text(encoding="utf-8"), str(config_path))
    except OSError as error:
        raise UserError(f"results: can't read {config_path}: {error.strerror}") from None
    return measured(folder.name, config, rows)


def measured(name: str, config: Mapping[str, Any], rows: pd.DataFrame) -> Measured:
    by_search = {
        (str(strategy), str(params)): Spent(
            tokens=float(group["generated_tokens"].mean()),
            flops=float((group["policy_flops"] + group["verifier_flops"]).mean()),
            n=None if pd.isna(group["n"].iloc[0]) else int(group["n"].iloc[0]),
        )
        for (strategy, params), group in rows.groupby(["strategy", "params"], sort=False)
    }
    seconds, policy = busy_seconds(rows), config.get("policy", {})
    replicas = policy.get("max_replicas") or policy.get("replicas") or 1
    speed = float(rows["generated_tokens"].sum()) / seconds / replicas if seconds > 0 else None
    return Measured(name=name, config=config, by_search=by_search, tokens_per_s=speed)


def busy_seconds(rows: pd.DataFrame) -> float:
    """While at least one of the searches went on: a run that was interrupted counts without its breaks."""
    total, end = 0.0, None
    for row in rows.sort_values("started_at").itertuples():
        begin = row.started_at if end is None or row.started_at > end else end
        if row.finished_at > begin:
            total += (row.finished_at - begin).total_seconds()
            end = row.finished_at
    return total


def estimate(cell: Cell, left: Mapping[Key, int], sources: Sequence[Measured]) -> Estimate:
    """`left`: how many searches the models are needed for, by strategy and params."""
    config = parse_config(cell.resolved_yaml, "the cell")
    ranked = sorted(
        ((likeness, source) for source in sources if (likeness := source.likeness(config)) is not None),
        key=lambda pair: -pair[0],
    )
    alike = [source for _, source in ranked]
    tokens, flops, seconds, at_most = 0.0, 0.0, 0.0, False
    used, unknown, untimed, unpriced = [], [], False, False
    for named, count in _counted(cell, left):
        found = next(((source, spent) for source in alike if (spent := _spent(source, named)) is not None), None)
        if found is not None:
            source, spent = found
            tokens, flops = tokens + count * spent.tokens, flops + count * spent.flops
            used.append(source.name)
            speed = source.tokens_per_s
            if speed:
                seconds += count * spent.tokens / (speed * most_replicas(cell.config.policy))
            untimed |= not speed
        elif (bound := _bound(cell, named)) is not None:
            tokens, at_most, untimed, unpriced = tokens + count * bound, True, True, True
        else:
            unknown.append(named.name)
    cap = cell.config.run_budget.policy_tokens
    if cap is not None and (unknown or tokens > cap):
        tokens, at_most, unknown = float(cap), True, []
        untimed = unpriced = True
    known = tokens > 0 or not left
    return Estimate(
        tokens=tokens if known else None,
        flops=flops if known and not unpriced else None,
        hours=seconds / 3600 if known and not untimed else None,
        at_most=at_most,
        sources=tuple(dict.fromkeys(used)),
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _counted(cell: Cell, left: Mapping[Key, int]) -> Iterator[tuple[NamedStrategy, int]]:
    for named in cell.parts.strategies:
        if count := left.get(key_of(named)):
            yield named, count


def _spent(source: Measured, named: NamedStrategy) -> Spent | None:
    if (exact := source.by_search.get(key_of(named))) is not None:
        return exact
    n = getattr(named.strategy, "n", None)
    for (strategy, _), spent in source.by_search.items():
        if strategy == named.name and n is not None and spent.n is not None:
            share = n / spent.n
            return Spent(tokens=share * spent.tokens, flops=share * spent.flops, n=n)
    return None


def _bound(cell: Cell, named: NamedStrategy) -> float | None:
    """Tokens that one search can't exceed."""
    n, bounds = named.strategy.most_candidates, []
    if named.name in _WHOLE_SAMPLES and n is not None:
        bounds.append(n * cell.config.sampling.max_tokens)
    if (cap := cell.config.budget.policy_tokens) is not None:
        bounds.append(cap)
    return min(bounds, default=None)
