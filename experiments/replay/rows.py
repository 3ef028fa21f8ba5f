"""Rows that a replay makes say so, and count the thinking of the samples that they were answered from."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from experiments.replay.recording import Recording
from orchestrator.results import CandidateRow, ProblemRow, RowKey
from orchestrator.runner import Results


class ReplayedRows:
    """Implements `Results`: hands the rows on to others. A replay's texts are whole, so it can't tell thinking from
    answer; the recording can."""

    def __init__(self, results: Results, recording: Recording, source: str) -> None:
        self._results = results
        self._recording = recording
        self._source = source

    def done_keys(self) -> set[RowKey]:
        return self._results.done_keys()

    def num_candidates(self, key: RowKey) -> int:
        return self._results.num_candidates(key)

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow], tree: pa.Table | None) -> None:
        problem = replace(problem, replayed_from=self._source)
        if self._recording.thinks:
            known = self._recording.thinking_tokens
            candidates = [
                replace(row, thinking_tokens=known.get((row.problem_id, tuple(row.token_ids)))) for row in candidates
            ]
            problem = replace(problem, thinking_tokens=_all(problem, candidates))
        self._results.add(problem, candidates, tree)


def _all(problem: ProblemRow, candidates: Sequence[CandidateRow]) -> int | None:
    """None where a sample was stopped early, or given up: nobody knows how much of it was thinking."""
    counts = [row.thinking_tokens for row in candidates if row.thinking_tokens is not None]
    written = sum(len(row.token_ids) for row in candidates)
    return sum(counts) if len(counts) == len(candidates) and written == problem.generated_tokens else None
