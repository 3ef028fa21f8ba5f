"""pass@1 of a policy under training, on held-out problems: sampled by transformers, graded, one row per problem."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import GenerationConfig, PreTrainedModel

from experiments.analysis.intervals import Interval, bootstrap_mean
from experiments.analysis.paired import paired_difference
from experiments.training.rewards import Codec, Judge
from orchestrator.core.protocols import Sampling

FOLDER = "held_out"  # of a training's folder: a file per step at which it was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """pass@1 before and after, with 95% intervals over problems; the gain is paired by problem."""

    num_problems: int
    before: Interval
    after: Interval
    gain: Interval

    def __str__(self) -> str:
        before, after, gain = (
            f"{100 * i.value:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]" for i in (self.before, self.after, self.gain)
        )
        return (
            f"pass@1 in % on {self.num_problems} held-out problems, with 95% intervals: "
            f"{before} before, {after} after; gain {gain} points"
        )


class HeldOut:
    """Samples and grades the held-out problems, always with the same seed; leaves the training's randomness alone."""

    def __init__(
        self, codec: Codec, judge: Judge, *, sampling: Sampling, num_samples: int, rows_at_once: int, seed: int
    ) -> None:
        self._codec = codec
        self._judge = judge
        self._sampling = sampling
        self._num_samples = num_samples
        self._rows_at_once = rows_at_once
        self._seed = seed

    def measure(self, model: PreTrainedModel, step: int, folder: Path) -> None:
        """Writes a row per problem: how many samples were judged, how many were right, their mean length."""
        ids = list(self._codec.prompt_ids)
        sampled = sample(
            model,
            [self._codec.prompt_ids[id] for id in ids],
            end_ids=self._codec.end_ids,
            pad_id=self._codec.pad_id,
            num_samples=self._num_samples,
            sampling=self._sampling,
            rows_at_once=self._rows_at_once,
            seed=self._seed,
        )
        flat = [self._codec.completion(id, row) for id, rows in zip(ids, sampled, strict=True) for row in rows]
        verdicts = self._judge(flat)
        table = pd.DataFrame(
            {
                "step": step,
                "problem_id": [completion.problem.id for completion in flat],
                "num_tokens": [len(completion.token_ids) for completion in flat],
                "verdict": pd.array(verdicts, dtype="Float64"),
            }
        )
        by_problem = table.groupby(["step", "problem_id"], as_index=False, sort=False).agg(
            num_judged=("verdict", "count"), num_right=("verdict", "sum"), mean_tokens=("num_tokens", "mean")
        )
        (folder / FOLDER).mkdir(exist_ok=True)
        by_problem.astype({"num_right": int}).to_parquet(folder / FOLDER / f"step-{step:06d}.parquet")


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    end_ids: Collection[int],
    pad_id: int,
    num_samples: int,
    sampling: Sampling,
    rows_at_once: int,
    seed: int,
) -> list[list[list[int]]]:
    """`num_samples` completions of each prompt, as ids with their end token. The global generators are put back."""
    settings = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p or None,
        repetition_penalty=sampling.repetition_penalty,
        max_new_tokens=sampling.max_tokens,
        num_return_sequences=num_samples,
        eos_token_id=sorted(end_ids),
        pad_token_id=pad_id,
        disable_compile=True,
    )
    completions: list[list[list[int]]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    stride = max(1, rows_at_once // num_samples)
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for start in range(0, len(prompts), stride):
                chosen = by_length[start : start + stride]
                longest = len(prompts[chosen[-1]])
                ids = torch.tensor([[pad_id] * (longest - len(prompts[i])) + list(prompts[i]) for i in chosen])
                mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
                written = model.generate(
                    ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
                )
                rows = [_to_end(row, end_ids) for row in written[:, longest:].tolist()]
                for k, i in enumerate(chosen):
                    completions[i] = rows[k * num_samples : (k + 1) * num_samples]
    finally:
        model.train(was_training)
    return completions


def _to_end(row: list[int], end_ids: Collection[int]) -> list[int]:
    """Up to the first end token, which it keeps."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in end_ids), len(row))]


def read_held_out(folder: Path) -> pd.DataFrame:
    """Every row of every step at which a training measured; without any, no rows."""
    files = sorted((folder / FOLDER).glob("step-*.parquet"))
    columns = ["step", "problem_id", "num_judged", "num_right", "mean_tokens"]
    return pd.concat([pd.read_parquet(file) for file in files]) if files else pd.DataFrame(columns=columns)


def pass_rates(held_out: pd.DataFrame, step: int) -> Mapping[str, float]:
    """By problem, the share of right ones among the samples that could be judged."""
    rows = held_out[(held_out.step == step) & (held_out.num_judged > 0)]
    return dict(zip(rows.problem_id, rows.num_right / rows.num_judged, strict=True))


def outcome(held_out: pd.DataFrame) -> Outcome:
    """Of the first step measured against the last."""
    before, after = pass_rates(held_out, held_out.step.min()), pass_rates(held_out, held_out.step.max())
    return Outcome(
        num_problems=len(before.keys() & after.keys()),
        before=bootstrap_mean(list(before.values())),
        after=bootstrap_mean(list(after.values())),
        gain=paired_difference(after, before),
    )
