"""Rows of problems, candidates and search trees, and the folder of Parquet shards that holds them.

A lock allows one writer per folder; anyone may read meanwhile. To add a column: a field of a row, and its value in
`orchestrator.runner`.
"""

from orchestrator.results.rows import (
    CANDIDATES_SCHEMA,
    PROBLEMS_SCHEMA,
    TREES_SCHEMA,
    CandidateRow,
    Costs,
    NodeRow,
    ProblemRow,
    RowKey,
    to_json,
)
from orchestrator.results.writer import ResultsWriter, read_problems, read_results, read_trees, tree_table

__all__ = [
    "CANDIDATES_SCHEMA",
    "PROBLEMS_SCHEMA",
    "TREES_SCHEMA",
    "CandidateRow",
    "Costs",
    "NodeRow",
    "ProblemRow",
    "ResultsWriter",
    "RowKey",
    "read_problems",
    "read_results",
    "read_trees",
    "to_json",
    "tree_table",
]
