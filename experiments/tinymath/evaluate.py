"""Measures the tiny pair on held-out test problems: `python -m experiments.tinymath.evaluate`.

Every line that the pair promises, with 95% intervals over problems (paired where two selections are compared). Prints
a table and writes metrics.json beside the PRM.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.tinymath.sampling import sample
from experiments.tinymath.task import STEP_DELIMITER, TinyProblem, extract_answer, generate, step_labels
from experiments.tinymath.tokenizer import build_tokenizer, prompt_ids
from experiments.tinymath.train_prm import MAX_NEW_TOKENS, is_step_end, judge
from experiments.training.prm_figure import draw_reliability
from verifiers.calibration import expected_calibration_error, reliability
from verifiers.metrics import auroc
from verifiers.streaming_prm import StreamingPRM

SEED = 0
NUM_PROBLEMS, NUM_SAMPLES = 320, 64
COUNTS = (1, 4, 16, 64)
RELIABILITIES = {"as trained": "reliability_before_scaling", "with its temperature": "reliability"}  # shown, stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A completion, its answer, its score after the last step, and per step its score (logit) and exact label."""

    answer: str | None
    score: float
    step_logits: tuple[float, ...]
    labels: tuple[bool, ...]


def main() -> None:
    models = Path(__file__).parent / "models"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=models / "policy")
    parser.add_argument("--prm", type=Path, default=models / "prm")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--num-problems", type=int, default=NUM_PROBLEMS)
    arguments = parser.parse_args()
    tokenizer = build_tokenizer()
    policy = LlamaForCausalLM.from_pretrained(arguments.policy)
    prm = StreamingPRM.from_pretrained(arguments.prm)
    problems = generate(arguments.split, arguments.num_problems)
    prompts = [prompt_ids(tokenizer, problem.prompt) for problem in problems]
    greedy, sampled = (
        sample(policy, prompts, num_samples=n, temperature=t, max_new_tokens=MAX_NEW_TOKENS, seed=SEED)
        for n, t in ((1, 0.0), (NUM_SAMPLES, 1.0))
    )
    candidates = [
        judge_candidates(prm, tokenizer, problem, prompt, rows)
        for problem, prompt, rows in zip(problems, prompts, sampled, strict=True)
    ]
    greedy_hits = [
        float(extract_answer(tokenizer.decode(rows[0])) == problem.answer)
        for problem, rows in zip(problems, greedy, strict=True)
    ]
    metrics = measure(problems, candidates, greedy_hits, prm.config.temperature)
    show(metrics)
    if arguments.split == "test":
        (arguments.prm / "metrics.json").write_text(json.dumps(metrics, indent=2, default=asdict) + "\n")
        figure = draw_reliability({name: metrics[key] for name, key in RELIABILITIES.items()})  # type: ignore[misc]
        figure.savefig(arguments.prm / "reliability.png", dpi=120)


def judge_candidates(
    prm: StreamingPRM,
    tokenizer: PreTrainedTokenizerFast,
    problem: TinyProblem,
    prompt: list[int],
    completions: Sequence[list[int]],
) -> list[Candidate]:
    """All completions of a problem in their order; equal ones are judged once."""
    distinct = list(dict.fromkeys(map(tuple, completions)))
    output = judge(prm, prompt, [list(row) for row in distinct])
    judged = {}
    for row, logits in zip(distinct, output.mean_logit, strict=True):
        ends = is_step_end(tokenizer, torch.tensor(row))
        ends[-1] = True  # a completion cut by the token limit ends in an unfinished step
        step_logits = tuple(logits[: len(row)][ends].tolist())
        text = tokenizer.decode(list(row))
        labels = step_labels(problem, text)
        assert len(labels) == len(step_logits) or STEP_DELIMITER * 2 in text or "\n" in text
        labels = (labels + [False] * len(step_logits))[: len(step_logits)]
        judged[row] = Candidate(
            answer=extract_answer(text), score=step_logits[-1], step_logits=step_logits, labels=tuple(labels)
        )
    return [judged[tuple(row)] for row in completions]


def majority(candidates: Sequence[Candidate]) -> str | None:
    votes = Counter(c.answer for c in candidates if c.answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def best(candidates: Sequence[Candidate]) -> str | None:
    return max(candidates, key=lambda c: c.score).answer


def weighted_majority(candidates: Sequence[Candidate]) -> str | None:
    votes: Counter[str] = Counter()
    for c in candidates:
        if c.answer is not None:
            votes[c.answer] += 1 / (1 + math.exp(-c.score))  # type: ignore[assignment]
    return votes.most_common(1)[0][0] if votes else None


def measure(
    problems: Sequence[TinyProblem],
    candidates: Sequence[Sequence[Candidate]],
    greedy_hits: Sequence[float],
    temperature: float,
) -> dict[str, object]:
    """Every metric, as [value, half-width of its 95% interval]. `temperature` is the PRM's own."""
    rates = [fmean(c.answer == p.answer for c in rows) for p, rows in zip(problems, candidates, strict=True)]
    covered = [float(rate > 0) for rate in rates]

    def selected(choose: Callable[[Sequence[Candidate]], str | None], count: int) -> list[float]:
        return [
            fmean(choose(rows[i : i + count]) == p.answer for i in range(0, len(rows), count))
            for p, rows in zip(problems, candidates, strict=True)
        ]

    by_count = {
        name: {n: interval(selected(choose, n)) for n in COUNTS}
        for name, choose in (("majority", majority), ("prm_best", best), ("prm_weighted", weighted_majority))
    }
    by_count["coverage"] = {
        n: interval(
            [
                fmean(any(c.answer == p.answer for c in rows[i : i + n]) for i in range(0, len(rows), n))
                for p, rows in zip(problems, candidates, strict=True)
            ]
        )
        for n in COUNTS
    }
    prm, vote = selected(best, NUM_SAMPLES), selected(majority, NUM_SAMPLES)
    scores = torch.tensor([x for rows in candidates for c in rows for x in c.step_logits])
    truths = torch.tensor([x for rows in candidates for c in rows for x in c.labels])
    calibrated = reliability(scores.sigmoid().numpy(), truths.numpy())
    uncalibrated = reliability((scores * temperature).sigmoid().numpy(), truths.numpy())
    return {
        "num_problems": len(problems),
        "num_samples": NUM_SAMPLES,
        "temperature": 1.0,
        "pass_at_1": interval(rates),
        "greedy": interval(greedy_hits),
        "coverage": interval(covered),
        "majority": interval(vote),
        "prm_best": interval(prm),
        "majority_minus_pass_at_1": paired(vote, rates),
        "prm_best_minus_majority": paired(prm, vote),
        "prm_best_minus_greedy": paired(prm, greedy_hits),
        "step_auroc": auroc_interval(candidates),
        "step_ece": round(expected_calibration_error(calibrated), 4),
        "step_ece_before_scaling": round(expected_calibration_error(uncalibrated), 4),
        **{key: bins for key, bins in zip(RELIABILITIES.values(), (uncalibrated, calibrated), strict=True)},
        "step_brier": round(float(((scores.sigmoid() - truths.float()) ** 2).mean()), 4),
        "share_of_steps_correct": round(float(truths.float().mean()), 4),
        "right_answers_with_a_wrong_step": round(
            fmean(
                not all(c.labels)
                for p, rows in zip(problems, candidates, strict=True)
                for c in rows
                if c.answer == p.answer
            ),
            4,
        ),
        "problems_by_pass_rate": {
            label: sum(low <= rate < high for rate in rates)
            for label, low, high in (
                ("0-0.05", 0, 0.05),
                ("0.05-0.25", 0.05, 0.25),
                ("0.25-0.5", 0.25, 0.5),
                ("0.5-0.75", 0.5, 0.75),
                ("0.75-0.95", 0.75, 0.95),
                ("0.95-1", 0.95, 1.01),
            )
        },
        "by_level": {
            level: {
                "problems": len(chosen),
                "pass_at_1": round(fmean(rates[i] for i in chosen), 4),
                "prm_best": round(fmean(prm[i] for i in chosen), 4),
            }
            for level in sorted({p.level for p in problems})
            if (chosen := [i for i, p in enumerate(problems) if p.level == level])
        },
        "by_num_samples": by_count,
    }


def interval(values: Sequence[float]) -> list[float]:
    """Mean over problems and the half-width of its 95% interval."""
    return [round(fmean(values), 4), round(1.96 * stdev(values) / math.sqrt(len(values)), 4)]


def paired(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return interval([a - b for a, b in zip(left, right, strict=True)])


def auroc_interval(candidates: Sequence[Sequence[Candidate]], num_resamples: int = 100) -> list[float]:
    """Step AUROC and the half-width of its 95% interval, by a bootstrap over problems."""
    scores = [np.array([x for c in rows for x in c.step_logits]) for rows in candidates]
    truths = [np.array([x for c in rows for x in c.labels], dtype=bool) for rows in candidates]
    generator = torch.Generator().manual_seed(SEED)
    values = []
    for _ in range(num_resamples):
        drawn = torch.randint(len(candidates), (len(candidates),), generator=generator).tolist()
        values.append(auroc(np.concatenate([scores[i] for i in drawn]), np.concatenate([truths[i] for i in drawn])))
    return [round(auroc(np.concatenate(scores), np.concatenate(truths)), 4), round(1.96 * stdev(values), 4)]


def show(metrics: dict[str, object]) -> None:
    table = Table("metric", "value", "95% interval", title="The tiny pair on held-out problems")
    for name, value in metrics.items():
        if name in RELIABILITIES.values():
            continue
        if isinstance(value, list):
            table.add_row(name, f"{value[0]:.3f}", f"± {value[1]:.3f}")
        elif not isinstance(value, dict):
            table.add_row(name, str(value), "")
    curves = Table("N", *(curves_by_name := metrics["by_num_samples"]), title="By number of samples")  # type: ignore[misc]
    for n in COUNTS:
        curves.add_row(str(n), *(f"{curve[n][0]:.3f} ± {curve[n][1]:.3f}" for curve in curves_by_name.values()))  # type: ignore[attr-defined]
    console = Console()
    console.print(table, curves)
    console.print(f"problems by pass rate: {metrics['problems_by_pass_rate']}\nby level: {metrics['by_level']}")


if __name__ == "__main__":
    main()
