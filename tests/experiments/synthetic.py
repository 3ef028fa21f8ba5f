"""A results folder with known rows, for tests of the analysis: 12 problems, 8 samples each, and one error."""

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.results import CandidateRow, ProblemRow, ResultsWriter, to_json

NUM_PROBLEMS, NUM_SAMPLES = 12, 8
RUN_YAML = "seed: 0\ndata: {name: tinymath}\n"


def write_run(
    folder: Path,
    *,
    judged: bool = True,
    seeds: tuple[int, ...] = (0,),
    sampled: bool = True,
    confident: bool = False,
) -> None:
    """Of problem i, min(i, 8) of 8 samples are correct; the verifier, if any, always scores those higher.

    Samples have two steps, of two tokens and of one; samples 0 and 1, 2 and 3, ... of a problem share the first.

    With `confident` the policy's log-probabilities were recorded: sample i is more confident than those before.

    `beam_search` solves the problems 3 to 11, `greedy` 6 to 11. Problem "broken" is an error.
    """
    with ResultsWriter.open(folder, run_yaml=RUN_YAML, versions={"headrace": "0"}) as results:
        for seed in seeds:
            for index in range(NUM_PROBLEMS):
                if sampled:
                    samples = sample_rows(f"p{index}", min(index, NUM_SAMPLES), seed, judged, confident)
                    won = index > 0 if judged else index > 4
                    row = problem_row(
                        f"p{index}", "best_of_n", NUM_SAMPLES, seed, correct=won, num_candidates=NUM_SAMPLES
                    )
                    results.add(row if judged else _unjudged(row), samples)
                results.add(problem_row(f"p{index}", "greedy", None, seed, correct=index >= 6), [])
                results.add(problem_row(f"p{index}", "beam_search", 4, seed, correct=index >= 3), [])
        results.add(_error(seeds[0]), [])


def write_error(folder: Path) -> None:
    """A run whose only problem is an error."""
    with ResultsWriter.open(folder, run_yaml=RUN_YAML, versions={"headrace": "0"}) as results:
        results.add(_error(0), [])


def _error(seed: int) -> ProblemRow:
    changes = {"status": "error", "error": "the prompt leaves no room", "answer": None, "score": None}
    return problem_row("broken", "greedy", None, seed, correct=None, **changes)


def problem_row(
    problem_id: str, strategy: str, n: int | None, seed: int, *, correct: bool | None, **changes: Any
) -> ProblemRow:
    """`n` samples, or one, at 50 tokens each; `changes` replace fields."""
    tokens = 50 * (n or 1)
    fields: dict[str, Any] = {
        "run_id": "run",
        "problem_id": problem_id,
        "difficulty": 1.0 + sum(map(ord, problem_id)) % 3,
        "strategy": strategy,
        "params": to_json({} if n is None else {"n": n}),
        "label": strategy if n is None else f"{strategy} n={n}",
        "n": n,
        "seed": seed,
        "answer": "7",
        "correct": correct,
        "undecided": None,
        "score": 0.9,
        "status": "ok",
        "end_reason": "completed",
        "selection": None,
        "error": None,
        "prompt_tokens": 20,
        "cached_tokens": 0,
        "generated_tokens": tokens,
        "thinking_tokens": 0,
        "discarded_tokens": 5 * (n or 0),
        "speculative_tokens": 0,
        "verifier_tokens": 60 * n if n else 0,
        "reingested_tokens": 0,
        "policy_flops": tokens * 1e6,
        "verifier_flops": 60e6 * n if n else 0.0,
        "num_candidates": 0,
        "peak_state_bytes": 0,
        "queue_s": 0.0,
        "engine_s": 0.2,
        "verifier_s": 0.1,
        "wall_s": 0.25,
        "policy_model": "models/tiny-policy",
        "verifier_model": "models/tiny-prm",
        "version": "0",
        "detail": "{}",
        "started_at": datetime(2026, 1, 2, tzinfo=UTC),
        "finished_at": datetime(2026, 1, 2, 0, 0, 10, tzinfo=UTC),
    }
    return ProblemRow(**(fields | changes))


def _unjudged(row: ProblemRow) -> ProblemRow:
    return problem_row(
        row.problem_id, "self_consistency", row.n, row.seed, correct=row.correct, num_candidates=NUM_SAMPLES,
        verifier_tokens=0, verifier_flops=0.0, verifier_model=None, score=None,
    )  # fmt: skip


def sample_rows(problem_id: str, num_correct: int, seed: int, judged: bool, confident: bool) -> list[CandidateRow]:
    """The samples of a problem, of which `num_correct` are right, in random order."""
    row = problem_row(problem_id, "best_of_n" if judged else "self_consistency", NUM_SAMPLES, seed, correct=None)
    grades = [index < num_correct for index in range(NUM_SAMPLES)]
    random.Random(f"{problem_id}/{seed}").shuffle(grades)
    return [
        CandidateRow(
            run_id="run",
            problem_id=problem_id,
            strategy=row.strategy,
            params=row.params,
            label=row.label,
            seed=seed,
            candidate=index,
            token_ids=(seed, index // 2, index),
            text=f"so many\n\nAnswer: {7 if correct else 8}",
            answer="7" if correct else "8",
            answer_group=0 if correct is grades[0] else 1,
            correct=correct,
            undecided=None,
            chosen=False,
            status="finished",
            step_scores=(0.5, (0.8 if correct else 0.3) + index / 100) if judged else (None, None),
            step_uncertainties=(0.1, 0.1) if judged else (None, None),
            step_token_counts=(2, 1),
            step_logprobs=(-0.2, -0.1) if confident else None,
            step_confidences=(5.0 + index, 20.0) if confident else None,
            step_entropies=(0.3, 0.1) if confident else None,
            step_self_certainties=(2.0, 3.0) if confident else None,
            token_confidences=(4.0 + index, 6.0 + index, 20.0) if confident else None,
            aggregate_score=(0.8 if correct else 0.3) + index / 100 if judged else None,
            unjudged=None,
            prompt_tokens=20,
            cached_tokens=0,
            generated_tokens=50,
            thinking_tokens=0,
            discarded_tokens=5,
            speculative_tokens=0,
            verifier_tokens=60 if judged else 0,
            reingested_tokens=0,
            policy_flops=50e6,
            verifier_flops=60e6 if judged else 0.0,
            queue_s=0.0,
            engine_s=0.2,
        )
        for index, correct in enumerate(grades)
    ]
