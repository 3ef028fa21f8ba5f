"""A folder of labelled solutions while it is being filled: shards of the solutions, and of what each problem cost.

The solutions' shards lie in the folder itself, where `read_labelled` finds them; the costs' in `costs/`, beside them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa

from orchestrator.core.errors import UserError
from orchestrator.results.files import check_apart, make_table, read_parquet
from orchestrator.results.folder import ShardFolder
from orchestrator.results.shards import ShardWriter
from verifiers.training.labelled import SCHEMA, LabelledSolution, read_labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What labelling a problem took. Costs add up; `wall_s` is a sum over problems that were labelled together."""

    solutions: int = 0
    steps: int = 0
    sampled_tokens: int = 0  # that the policy wrote as solutions
    rollouts: int = 0  # completions from the ends of steps
    rollout_tokens: int = 0  # that the policy wrote as those
    verifier_tokens: int = 0
    flops: float = 0.0  # of policy and verifier
    wall_s: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)})


COSTS_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        *(pa.field(f.name, pa.int64() if f.type is int else pa.float64(), nullable=False) for f in fields(Cost)),
    ]
)


class LabelWriter(ShardWriter):
    """Writes labelled solutions."""

    companions = ("costs",)

    def __init__(self, shard_folder: ShardFolder, *, flush_seconds: float = 5.0) -> None:
        """Use `open`. Raises UserError for a shard that can't be read."""
        super().__init__(shard_folder, flush_seconds=flush_seconds)
        paths = shard_folder.shards()
        found = {path: read_parquet(path, SCHEMA)["problem_id"].to_pylist() for path in paths}
        check_apart(found.items())
        self._done = {problem_id for ids in found.values() for problem_id in ids}
        costs = [
            read_parquet(path, COSTS_SCHEMA).drop_columns("problem_id")
            for rows in paths
            for path in shard_folder.companions(rows)
        ]
        self._cost = sum((Cost(**row) for table in costs for row in table.to_pylist()), Cost())

    def done(self) -> frozenset[str]:
        """Ids of the problems that need no more work: those found on resume and those added since."""
        return frozenset(self._done)

    @property
    def cost(self) -> Cost:
        """Of all those."""
        return self._cost

    def add(self, solutions: Sequence[LabelledSolution], cost: Cost) -> None:
        """Buffers a problem's labelled solutions, at least one; flushes when enough seconds went by since the last."""
        [problem_id] = {solution.problem_id for solution in solutions}
        if problem_id in self._done:
            raise ValueError(f"labels: {problem_id} was already labelled")
        rows = make_table(map(asdict, solutions), SCHEMA)
        costs = make_table([{"problem_id": problem_id, **asdict(cost)}], COSTS_SCHEMA)
        self._hold(rows, costs)
        self._done.add(problem_id)
        self._cost += cost
        self._flush_when_due()


def read_labels(path: Path) -> list[LabelledSolution]:
    """As `read_labelled`, for a path that a user gave. Raises UserError."""
    try:
        return read_labelled(path)
    except ValueError as error:
        raise UserError(str(error)) from None
