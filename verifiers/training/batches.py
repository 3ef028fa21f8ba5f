"""Which solutions are learnt together. Pure functions of a seed, so that a training can be resumed at any step."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from verifiers.training.encoding import Encoded
from verifiers.training.labelled import LabelledSolution

_BATCHES_AT_ONCE = 8  # drawn together and sorted by length: less padding


def split_by_problem(
    solutions: Sequence[LabelledSolution], validation_share: float, seed: int
) -> tuple[list[LabelledSolution], list[LabelledSolution]]:
    """Training and validation solutions. All solutions of a problem go to one side, at least one problem to each."""
    problems = sorted({solution.problem_id for solution in solutions})
    if len(problems) < 2:
        raise ValueError(f"split: wanted solutions of at least two problems, got {len(problems)}")
    random.Random(seed).shuffle(problems)
    held_out = set(problems[: min(len(problems) - 1, max(1, round(validation_share * len(problems))))])
    return (
        [solution for solution in solutions if solution.problem_id not in held_out],
        [solution for solution in solutions if solution.problem_id in held_out],
    )


def plan_epoch(
    solutions: Sequence[Encoded], *, batch_tokens: int, per_problem: int, seed: int, epoch: int
) -> list[list[int]]:
    """Batches of indices, each solution once. A batch has up to `batch_tokens` tokens, or one group of up to
    `per_problem` solutions of a problem; a group's prompt is counted once. Groups of a batch are alike in length."""
    rng = random.Random(f"{seed}/{epoch}")
    by_problem: dict[str, list[int]] = {}
    for index in rng.sample(range(len(solutions)), len(solutions)):
        by_problem.setdefault(solutions[index].problem_id, []).append(index)
    groups = [rows[i : i + per_problem] for rows in by_problem.values() for i in range(0, len(rows), per_problem)]
    rng.shuffle(groups)

    def num_tokens(group: list[int]) -> int:
        return len(solutions[group[0]].prompt_ids) + sum(len(solutions[i].completion_ids) for i in group)

    batches: list[list[int]] = []
    for pool in _packed(groups, [num_tokens(group) for group in groups], batch_tokens * _BATCHES_AT_ONCE):
        pool.sort(key=lambda group: max(len(solutions[i].completion_ids) for i in group))
        packed = list(_packed(pool, [num_tokens(group) for group in pool], batch_tokens))
        rng.shuffle(packed)
        batches += [[index for group in batch for index in group] for batch in packed]
    return batches


def endless_batches(
    solutions: Sequence[Encoded], *, batch_tokens: int, per_problem: int, seed: int, skip: int = 0
) -> Iterator[list[int]]:
    """Epoch after epoch, without the first `skip` batches."""
    epoch = 0
    while True:
        batches = plan_epoch(solutions, batch_tokens=batch_tokens, per_problem=per_problem, seed=seed, epoch=epoch)
        yield from batches[skip:]
        skip, epoch = max(0, skip - len(batches)), epoch + 1


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Right-padded ids (batch, time), and lengths."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, torch.tensor([len(row) for row in rows])


def _packed(groups: Sequence[list[int]], sizes: Sequence[int], limit: int) -> Iterator[list[list[int]]]:
    """Runs of neighbouring groups of at most `limit` together, or of one group."""
    pack: list[list[int]] = []
    total = 0
    for group, size in zip(groups, sizes, strict=True):
        if pack and total + size > limit:
            yield pack
            pack, total = [], 0
        pack.append(group)
        total += size
    if pack:
        yield pack
