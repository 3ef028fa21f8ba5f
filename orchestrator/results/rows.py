"""Result rows. Their fields are the columns of the Parquet shards in `problems/`, `candidates/` and `trees/`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from orchestrator.core.values import numerous

RowKey = tuple[str, str, str, int]  # problem_id, strategy, params, seed: at most one row each
Small = Annotated[int, pa.int32()]
Repeated = Annotated[str, pa.dictionary(pa.int32(), pa.string())]  # of few values in many rows

TREES_VERSION = 1
"""Of the columns of `trees/`: larger when one changes its meaning. In each file's metadata, as `headrace.trees`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a problem and a candidate alike cost; names and meanings are `Ledger`'s."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    thinking_tokens: int | None
    discarded_tokens: int
    speculative_tokens: int
    verifier_tokens: int
    reingested_tokens: int
    policy_flops: float
    verifier_flops: float
    queue_s: float
    engine_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemRow(Costs):
    """One problem under one strategy and seed."""

    run_id: str
    problem_id: str
    difficulty: float | None
    strategy: str
    params: str  # the strategy's fields, as `to_json` writes them
    label: str  # for tables and pictures: "best_of_n n=16"
    n: int | None
    seed: int
    answer: str | None
    correct: bool | None  # None: an error, or undecided
    undecided: str | None  # why the grader could not decide
    score: float | None
    status: Literal["ok", "error"]
    end_reason: str | None
    selection: str | None  # by what the candidate was chosen: `Selection`
    error: str | None
    num_candidates: int
    peak_state_bytes: int
    verifier_s: float
    wall_s: float
    policy_model: str
    verifier_model: str | None
    version: str
    detail: str  # what the strategy decided, as `to_json` writes it
    tree: str | None = None  # `kept` in `trees/`, or `over_budget`; None: nobody asked for it
    replayed_from: str | None = None  # the recording whose samples answered it; None: it sampled
    started_at: datetime  # with its time zone
    finished_at: datetime  # with its time zone

    @property
    def key(self) -> RowKey:
        return (self.problem_id, self.strategy, self.params, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow(Costs):
    """One candidate of a problem row. Step lists have one entry per step.

    Its costs are those of its own path: candidates that share a prefix each count it, what was pruned or read of the
    prompt is in none, so only independent samples add up to their problem's row.
    """

    run_id: str
    problem_id: str
    strategy: str
    params: str
    label: str
    seed: int
    candidate: Small
    token_ids: Sequence[int]  # of the completion
    text: str
    answer: str | None
    answer_group: Small | None  # equal numbers for equal answers of the row's candidates
    correct: bool | None  # None: undecided
    undecided: str | None  # why the grader could not decide
    chosen: bool
    status: str
    step_scores: Sequence[float | None]  # None: not scored
    step_uncertainties: Sequence[float | None]
    step_token_counts: Sequence[int]
    step_logprobs: Sequence[float | None] | None  # sums over the step's tokens; None: not asked for
    step_confidences: Sequence[float | None] | None  # mean over the step's tokens, as the next two; None: not asked for
    step_entropies: Sequence[float | None] | None
    step_self_certainties: Sequence[float | None] | None
    token_confidences: Sequence[float | None] | None  # one for each of `token_ids`; None: not asked for
    aggregate_score: float | None
    unjudged: str | None  # why the verifier gave it no score

    @property
    def key(self) -> RowKey:
        return (self.problem_id, self.strategy, self.params, self.seed)


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node of a problem row's search tree: the question, which is the root, or a step that was written."""

    run_id: Repeated
    problem_id: Repeated
    strategy: Repeated
    params: Repeated
    label: Repeated
    seed: int
    node: Small  # its number in the tree; 0: the root
    parent: Small | None  # the number of the node before it; None: the root
    path: Sequence[int]  # which child at each fork; steps that were written in one go share it
    step: Small | None  # its index in the trajectory; None: the root
    text: str
    num_tokens: Small
    score: float | None  # None: not scored
    uncertainty: float | None
    pruned: bool  # the search gave it up, and nothing that follows it was kept
    finished: bool  # its trajectory ended with it
    chosen: bool  # it belongs to the chosen candidate
    at_s: float  # since the search began

    @property
    def key(self) -> RowKey:
        return (self.problem_id, self.strategy, self.params, self.seed)


def to_json(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys: equal values are equal strings."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _schema(row: type) -> pa.Schema:
    """A column for each field, nullable where the field may be None; what a row costs comes last."""
    hints = get_type_hints(row, include_extras=True)
    costs = [field.name for field in fields(Costs)]
    names = [field.name for field in fields(row)]
    last = [name for name in costs if name in names]
    return pa.schema([_column(name, hints[name]) for name in (*(n for n in names if n not in last), *last)])


def _column(name: str, hint: Any) -> pa.Field:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if get_origin(hint) in (Union, UnionType) else []
    return pa.field(name, _type(kinds[0] if kinds else hint), nullable=bool(kinds))


def _type(kind: Any) -> pa.DataType:
    if get_origin(kind) is Annotated:
        return get_args(kind)[1]
    if get_origin(kind) is Literal:
        return pa.string()
    if get_origin(kind) is Sequence:
        return pa.list_(pa.int32() if get_args(kind) == (int,) else pa.float64())
    return {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        datetime: pa.timestamp("us", tz="UTC"),
    }[kind]


PROBLEMS_SCHEMA, CANDIDATES_SCHEMA = _schema(ProblemRow), _schema(CandidateRow)
TREES_SCHEMA = _schema(NodeRow).with_metadata({"headrace.trees": str(TREES_VERSION)})
"""Of the shards. A column that is added must be nullable: older folders are read with nulls there."""
