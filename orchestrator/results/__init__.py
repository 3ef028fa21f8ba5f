"""Rows of problems and candidates, and the folder of Parquet shards that holds them.

A lock allows one writer per folder; anyone may read meanwhile. To add a column: a field of a row, and its value in
`orchestrator.runner`.
"""

from orchestrator.results.rows import (
    CANDIDATES_SCHEMA,
    PROBLEMS_SCHEMA,
    CandidateRow,
    Costs,
    ProblemRow,
    RowKey,
    to_json,
)
from orchestrator.results.writer import ResultsWriter, read_results

__all__ = [
    "CANDIDATES_SCHEMA",
    "PROBLEMS_SCHEMA",
    "CandidateRow",
    "Costs",
    "ProblemRow",
    "ResultsWriter",
    "RowKey",
    "read_results",
    "to_json",
]
