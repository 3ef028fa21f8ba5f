"""Solutions with a label for each step, in Parquet: what `headrace label` writes and `headrace train-prm` reads.

The columns are those of TRL's stepwise schema (`prompt`, `completions`, `labels`) and what Headrace knows besides. A
label is P(every step so far is correct): 0 or 1 where somebody decided, a share where rollouts were counted, null where
nobody looked.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("completions", pa.list_(pa.string()), nullable=False),
        pa.field("labels", pa.list_(pa.float32()), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32())),
        pa.field("step_ids", pa.list_(pa.list_(pa.int32()))),
        pa.field("delimiters", pa.list_(pa.string())),
        pa.field("thinking", pa.list_(pa.bool_())),
        pa.field("truncated", pa.bool_()),
    ]
)
_LATER = ("delimiters", "thinking", "truncated")  # older files lack them: they are read as null


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSolution:
    """A solution, whole or cut after a step."""

    problem_id: str
    source: str  # where the labels come from, such as exact, monte_carlo, judge, prm800k
    prompt: str  # the user's message
    completions: tuple[str, ...]  # the steps' texts without the delimiters between them
    labels: tuple[float | None, ...]  # one for each step
    prompt_ids: tuple[int, ...] | None = None  # the policy's own tokens, where it wrote the solution: they go before
    step_ids: tuple[tuple[int, ...], ...] | None = None  # the text; delimiters and the end token included
    delimiters: tuple[str, ...] | None = None  # what each step's text ends with beside its completion; None: not known
    thinking: tuple[bool, ...] | None = None  # which steps are the policy's thinking; None: not known
    truncated: bool | None = None  # whether a limit on tokens cut it off; None: not known

    def __post_init__(self) -> None:
        if not self.completions or len(self.labels) != len(self.completions):
            raise ValueError(
                f"labelled solution of {self.problem_id}: wanted a label for each of at least one step, "
                f"got {len(self.completions)} steps and {len(self.labels)} labels"
            )
        if (self.prompt_ids is None) != (self.step_ids is None):
            raise ValueError(f"labelled solution of {self.problem_id}: wanted ids of prompt and steps, or neither")
        if self.step_ids is not None and len(self.step_ids) != len(self.completions):
            raise ValueError(
                f"labelled solution of {self.problem_id}: wanted ids of {len(self.completions)} steps, "
                f"got {len(self.step_ids)}"
            )
        for name in ("delimiters", "thinking"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.completions):
                raise ValueError(
                    f"labelled solution of {self.problem_id}: wanted {name} of {len(self.completions)} steps, "
                    f"got {len(values)}"
                )
        if any(label is not None and not 0 <= label <= 1 for label in self.labels):
            raise ValueError(f"labelled solution of {self.problem_id}: labels must be in 0..1, got {self.labels}")


def write_labelled(solutions: Sequence[LabelledSolution], path: Path) -> None:
    """Replaces the file as a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    pq.write_table(pa.Table.from_pylist([asdict(solution) for solution in solutions], schema=SCHEMA), part)
    part.replace(path)


def read_labelled(path: Path) -> list[LabelledSolution]:
    """Of a file, or of all Parquet files of a folder in order of their names. Raises ValueError for anything else."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"labelled solutions: {path} holds no Parquet file")
    solutions = []
    for file in files:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"labelled solutions: can't read {file}: {error}") from None
        lacking = [name for name in _LATER if name not in table.schema.names]
        if table.schema.names != [name for name in SCHEMA.names if name not in lacking]:
            got, wanted = ", ".join(table.schema.names), ", ".join(SCHEMA.names)
            raise ValueError(f"labelled solutions: columns of {file}, got {got}, wanted {wanted}")
        rows: list[dict[str, Any]] = table.to_pylist()
        solutions += [LabelledSolution(**{key: _frozen(value) for key, value in row.items()}) for row in rows]
    return solutions


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
