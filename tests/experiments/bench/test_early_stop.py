from dataclasses import dataclass

import pytest

from experiments.bench.early_stop import measure
from orchestrator.core.nouns import SearchResult
from strategies.selection import as_candidates, best_scored
from tests.experiments.synthetic import NUM_PROBLEMS, write_run


@dataclass(frozen=True, kw_only=True)
class HalfStopped:
    """Gives up every other sample after its first step."""

    n: int = 16

    async def search(self, problem, session):
        begun = await session.expand([await session.start(problem)], self.n)
        candidates = as_candidates(await session.expand(begun[::2]), "last")
        return SearchResult(candidates=candidates, chosen=best_scored(candidates))


def test_saved_tokens_and_their_cost_in_accuracy_are_paired(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.bench.early_stop.EarlyStop", HalfStopped)
    write_run(tmp_path / "run")
    found = measure(tmp_path / "run", n=8)
    assert (found["tokens"], found["baseline"]["tokens"]) == (4 * 3 + 4 * 2, 24)
    assert [found[name] for name in ("ratio", "ratio_min", "ratio_max")] == pytest.approx([24 / 20] * 3)
    assert found["difference_min"] <= found["difference"] <= 0 <= found["difference_max"]
    assert found["num_problems"] == NUM_PROBLEMS
