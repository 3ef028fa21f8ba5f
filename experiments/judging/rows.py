"""What a verifier says of solutions, in a folder: a row for each solution and, beside it, what each problem cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from orchestrator.core.ledger import Ledger
from orchestrator.results.files import check_apart, make_table, read_parquet
from orchestrator.results.folder import ShardFolder, shards
from orchestrator.results.shards import ShardWriter

JUDGEMENTS_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("answer_group", pa.int32()),
        pa.field("correct", pa.bool_()),
        pa.field("labels", pa.list_(pa.float64()), nullable=False),
        pa.field("scores", pa.list_(pa.float64())),
        pa.field("unjudged", pa.string()),
    ]
)
COSTS_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("verifier_tokens", pa.int64(), nullable=False),
        pa.field("verifier_flops", pa.float64(), nullable=False),
        pa.field("verifier_s", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Of one solution. Lists have an entry for each step."""

    problem_id: str
    answer: str | None
    answer_group: int | None  # equal numbers for equal answers of the problem's solutions
    correct: bool | None  # the answer; None: undecided
    labels: Sequence[float | None]  # None: not known
    scores: Sequence[float | None] | None  # None: not asked about; as a whole: it could not be judged
    unjudged: str | None  # why


class JudgementWriter(ShardWriter):
    """Writes what one verifier says."""

    companions = ("costs",)

    def __init__(self, shard_folder: ShardFolder, *, flush_seconds: float = 5.0) -> None:
        super().__init__(shard_folder, flush_seconds=flush_seconds)
        paths = [path for rows in shard_folder.shards() for path in shard_folder.companions(rows)]
        self._done = set(_problems({path: read_parquet(path, COSTS_SCHEMA) for path in paths}))

    def done(self) -> frozenset[str]:
        """Ids of the problems that need no more work: those found on resume and those added since."""
        return frozenset(self._done)

    def add(self, judgements: Sequence[Judgement], ledger: Ledger) -> None:
        """Buffers what was said of a problem's solutions, at least one; flushes when enough seconds went by."""
        [problem_id] = {judgement.problem_id for judgement in judgements}
        if problem_id in self._done:
            raise ValueError(f"judgements: {problem_id} was already judged")
        cost = {name: getattr(ledger, name) for name in COSTS_SCHEMA.names if name != "problem_id"}
        self._hold(
            make_table(map(asdict, judgements), JUDGEMENTS_SCHEMA),
            make_table([{"problem_id": problem_id, **cost}], COSTS_SCHEMA),
        )
        self._done.add(problem_id)
        self._flush_when_due()


def read_judgements(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All that is on disk: (judgements, costs of problems). Raises UserError."""
    paths = shards(folder, JudgementWriter.rows)
    rows = [read_parquet(path, JUDGEMENTS_SCHEMA) for path in paths]
    costs = {path: read_parquet(folder / "costs" / path.name, COSTS_SCHEMA) for path in paths}
    _problems(costs)
    none = (JUDGEMENTS_SCHEMA.empty_table(), COSTS_SCHEMA.empty_table())
    return pa.concat_tables([none[0], *rows]).to_pandas(), pa.concat_tables([none[1], *costs.values()]).to_pandas()


def _problems(costs: Mapping[Path, pa.Table]) -> list[str]:
    """The problems of shards. Raises UserError where two have one."""
    ids = {path: table["problem_id"].to_pylist() for path, table in costs.items()}
    check_apart(ids.items())
    return [problem_id for found in ids.values() for problem_id in found]
