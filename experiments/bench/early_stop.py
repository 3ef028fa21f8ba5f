"""Tokens that early stopping saves against best-of-N on the same recorded samples, and what it costs in accuracy."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.replay.recording import read_recording
from experiments.replay.run import replay_rows
from orchestrator.results import ProblemRow
from strategies.best_of_n import BestOfN
from strategies.early_stop import EarlyStop

BASELINE = "best_of_n n=16 over the same recorded samples; generated tokens"
GOAL = "> 1 at equal accuracy"
SEEDS = (0, 1, 2)
NUM_RESAMPLES = 2000


def measure(folder: Path, *, n: int = 16, seeds: Sequence[int] = SEEDS, **fields: Any) -> dict[str, Any]:
    """Generated tokens of best-of-n over those of early stopping, with 95% intervals over problems.

    `fields` are early stopping's own. Equal seeds draw equal samples, so the accuracies are paired.
    """
    recording = read_recording(folder)
    n = min(n, recording.num_samples)
    strategy = EarlyStop(n=n, **fields)
    full = _by_problem(replay_rows(recording, "best_of_n", BestOfN(n=n), seeds))
    stopped = _by_problem(replay_rows(recording, "early_stop", strategy, seeds))
    size = len(full)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(size, np.full(size, 1 / size), size=NUM_RESAMPLES) / size
    full_means, stopped_means = weights @ full, weights @ stopped
    ratios = full_means[:, 0] / stopped_means[:, 0]
    differences = stopped_means[:, 1] - full_means[:, 1]
    (full_tokens, full_accuracy), (tokens, accuracy) = full.mean(axis=0), stopped.mean(axis=0)
    return {
        "ratio": float(full_tokens / tokens),
        "ratio_min": float(np.quantile(ratios, 0.025)),
        "ratio_max": float(np.quantile(ratios, 0.975)),
        "tokens": float(tokens),
        "tokens_saved": float(1 - tokens / full_tokens),
        "accuracy": float(accuracy),
        "difference": float(accuracy - full_accuracy),
        "difference_min": float(np.quantile(differences, 0.025)),
        "difference_max": float(np.quantile(differences, 0.975)),
        "baseline": {"strategy": "best_of_n", "n": n, "tokens": float(full_tokens), "accuracy": float(full_accuracy)},
        "strategy": {name: str(value) for name, value in vars(strategy).items()},
        "num_problems": size,
        "recorded_samples": recording.num_samples,
        "seeds": list(seeds),
    }


def _by_problem(rows: Sequence[ProblemRow]) -> NDArray[np.float64]:
    """(problem, (generated tokens, accuracy)), means over seeds."""
    found: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for row in rows:
        found[row.problem_id].append((row.generated_tokens, bool(row.correct)))
    return np.array([np.mean(found[problem_id], axis=0) for problem_id in sorted(found)])
