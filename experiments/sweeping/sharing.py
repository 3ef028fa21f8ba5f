"""Which searches of a sweep are answered from the samples of others, where that changes no result.

A sample's seed depends on the run's seed, the problem and the sample's number, not on how many are drawn. So the first
4 of 64 samples are those that n=4 would have drawn, and a strategy that only draws samples and chooses among them
answers every smaller n from them: `best_of_n` and `self_consistency`. Not under a cap on a search or a run, because its
samples share it; not under a trust gate, whose outcome a recording does not know; not from a chat API, whose samples
have no token ids.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.config import FREE_KEYS, NamedStrategy
from experiments.sweeping.cells import Cell
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Strategy
from orchestrator.policy.resolve import is_chat_api
from orchestrator.results import to_json
from orchestrator.runner import strategy_label
from strategies.best_of_n import BestOfN
from strategies.self_consistency import SelfConsistency

_SCORES, _CERTAINTY = "scores", "certainty"
_NO_CAPS = Budget()


Key = tuple[str, str]
"""A strategy's name and its `params`: what tells the searches of a cell apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One strategy of one cell, on all its problems under all its seeds."""

    cell: str
    strategy: str
    params: str
    label: str

    @property
    def key(self) -> Key:
        return self.strategy, self.params

    @property
    def source(self) -> str:
        """How a row names it whose samples it gave."""
        return f"{self.cell}: {self.label}"


def key_of(named: NamedStrategy) -> Key:
    return named.name, to_json(asdict(named.strategy))


def search_of(cell: Cell, named: NamedStrategy) -> Search:
    return Search(
        cell=cell.name,
        strategy=named.name,
        params=key_of(named)[1],
        label=strategy_label(named.name, named.strategy),
    )


def shared_samples(cells: Sequence[Cell]) -> dict[Search, Search]:
    """For each search that needs no samples of its own, the one that has them. That one is never answered itself."""
    drawn = [_Drawn.of(cell, named) for cell in cells for named in cell.parts.strategies if _can_share(cell, named)]
    order = sorted(range(len(drawn)), key=lambda i: (-drawn[i].n, -len(drawn[i].asked), i))
    sources: list[_Drawn] = []
    found: dict[Search, Search] = {}
    for one in (drawn[index] for index in order):
        fitting = [source for source in sources if source.answers(one)]
        if fitting:
            fitting.sort(key=lambda source: source.search.cell != one.search.cell)  # its own cell's first
            found[one.search] = fitting[0].search
        else:
            sources.append(one)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A search that draws n whole samples."""

    search: Search
    n: int
    asked: frozenset[str]  # what is asked of each sample beside its text
    samples: str  # equal where the samples are
    verifier: str
    seeds: frozenset[int]

    @classmethod
    def of(cls, cell: Cell, named: NamedStrategy) -> "_Drawn":
        n = named.strategy.most_candidates
        assert n is not None
        return cls(
            search=search_of(cell, named),
            n=n,
            asked=_asked(named.strategy),
            samples=_samples(cell),
            verifier=json.dumps(_settings(cell, "verifier"), sort_keys=True, default=str),
            seeds=frozenset(cell.config.seeds),
        )

    def answers(self, other: "_Drawn") -> bool:
        return (
            self.n >= other.n
            and self.samples == other.samples
            and self.asked >= other.asked
            and self.seeds >= other.seeds
            and (_SCORES not in other.asked or self.verifier == other.verifier)
        )


def _can_share(cell: Cell, named: NamedStrategy) -> bool:
    config = cell.config
    return (
        isinstance(named.strategy, BestOfN | SelfConsistency)
        and config.budget == config.run_budget == _NO_CAPS
        and config.trust is None
        and not is_chat_api(cell.parts.policy)
    )


def _asked(strategy: Strategy) -> frozenset[str]:
    if strategy.needs_verifier:
        return frozenset({_SCORES})
    if isinstance(strategy, SelfConsistency) and strategy.weighted:
        return frozenset({_CERTAINTY})
    return frozenset()


def _samples(cell: Cell) -> str:
    """What the samples of a seed depend on."""
    config = cell.config
    parts = [
        _settings(cell, "policy"),
        asdict(config.sampling),
        asdict(config.steps),
        asdict(config.data),
        config.problem_timeout_s,
    ]
    return json.dumps(parts, sort_keys=True, default=str)


def _settings(cell: Cell, part: str) -> Mapping[str, Any]:
    """Those of a part of the configuration that change rows, and not only how fast they come."""
    settings = getattr(cell.config, part)
    if settings is None:
        return {}
    return {name: value for name, value in asdict(settings).items() if f"{part}.{name}" not in FREE_KEYS}
