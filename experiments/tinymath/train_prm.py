"""Trains the tiny streaming PRM from scratch: `python -m experiments.tinymath.train_prm --policy DIR --out DIR`.

First its trunk learns to write correct solutions; then the whole model learns to judge correct ones beside the policy's
own mistakes and made-up ones, each with exact labels; last its temperature is fitted on dev problems. Completions of
one problem share the state of its prompt, as they do in search. Seeds are fixed.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.tinymath.corruptions import corrupt
from experiments.tinymath.sampling import sample
from experiments.tinymath.task import MAX_LEVEL, STEP_DELIMITER, TinyProblem, generate, stream
from experiments.tinymath.tokenizer import build_tokenizer, completion_ids, prompt_ids
from orchestrator.core.fingerprint import tokenizer_fingerprint
from verifiers.calibration import expected_calibration_error, fit_temperature, reliability
from verifiers.metrics import auroc
from verifiers.streaming_prm import PRMConfig, PRMOutput, StreamingPRM
from verifiers.training.batches import pad
from verifiers.training.losses import evidential_loss
from verifiers.training.muon import is_matrix, split_optimizers

SEED = 0
NUM_LM_STEPS, LM_BATCH_SIZE = 960, 32
NUM_PRM_STEPS, PRM_BATCH_SIZE = 800, 24  # problems; each comes with one correct and two wrong completions
PROMPT_WEIGHT = 0.2  # a prompt's names never repeat: predicting them teaches to remember them
CURRICULUM_SHARE = 0.4  # of the LM steps, while the number of steps of a problem grows from 1 to 8
LM_LRS = (0.012, 3e-3)  # of Muon and AdamW
PRM_LRS = (0.008, 2e-3)
MAX_NEW_TOKENS = 120
RECORD_FILE = "training.json"

NUM_SAMPLED_PROBLEMS, NUM_SAMPLES = 6000, 5
BATCHES_AT_ONCE = 8  # drawn together and sorted by length
CUT_RATE = 0.5  # of wrong completions, which then end with their first wrong step
TOKEN_WEIGHT, LM_WEIGHT, EVIDENCE_WEIGHT, KL_WEIGHT = 0.5, 1.0, 0.1, 1.0

REPORT_EVERY, EVALUATE_EVERY = 50, 250
NUM_DEV_PROBLEMS, NUM_DEV_SAMPLES = 200, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A completion beside the correct one, as ids; both end with the end token."""

    prompt: list[int]
    correct: list[int]
    completion: list[int]


def main() -> None:
    models = Path(__file__).parent / "models"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=models / "policy")
    parser.add_argument("--out", type=Path, default=models / "prm")
    parser.add_argument("--only-trunk", action="store_true", help="stop after the first phase")
    parser.add_argument("--trunk", type=Path, help="a PRM folder whose trunk is trained: skip the first phase")
    parser.add_argument("--judge", type=Path, help="a PRM folder that is trained: only fit its temperature")
    arguments = parser.parse_args()
    tokenizer = build_tokenizer()
    trained: Path | None = arguments.judge or arguments.trunk
    if trained is None:
        torch.manual_seed(SEED)
        fingerprint = tokenizer_fingerprint(tokenizer.get_vocab())
        model = StreamingPRM(PRMConfig(vocab_size=len(tokenizer), tokenizer_fingerprint=fingerprint))
        record = train_trunk(model, tokenizer)
        save(model, tokenizer, record, arguments.out)
        if arguments.only_trunk:
            return
    else:
        model = StreamingPRM.from_pretrained(trained).train()
        record = json.loads((trained / RECORD_FILE).read_text())
    policy = LlamaForCausalLM.from_pretrained(arguments.policy)
    dev = judged_samples(policy, tokenizer, generate("dev", NUM_DEV_PROBLEMS), NUM_DEV_SAMPLES)
    if arguments.judge is None:
        record |= train_judge(model, tokenizer, policy, dev)
    record |= calibrate(model, tokenizer, dev)
    save(model, tokenizer, record, arguments.out)
    print(json.dumps(record))


def train_trunk(model: StreamingPRM, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """The first phase: the trunk as a language model of correct solutions. Returns what to record of it."""
    began, num_tokens = time.monotonic(), 0
    optimizers = split_optimizers(model, is_matrix, *LM_LRS)
    with Progress() as progress:
        task = progress.add_task("PRM, trunk", total=NUM_LM_STEPS)
        for step, (ids, lengths, weights) in enumerate(language_batches(tokenizer)):
            loss, completion_loss = language_loss(model, ids, lengths, weights)
            update(optimizers, loss, LM_LRS, schedule(step, NUM_LM_STEPS))
            num_tokens += int(lengths.sum())
            progress.update(task, advance=1)
            if (step + 1) % REPORT_EVERY == 0:
                progress.console.print(f"trunk step {step + 1}: loss {completion_loss:.3f}", highlight=False)
    return {"seed": SEED, "trunk_tokens": num_tokens, "trunk_seconds": round(time.monotonic() - began, 1)}


def train_judge(
    model: StreamingPRM,
    tokenizer: PreTrainedTokenizerFast,
    policy: LlamaForCausalLM,
    dev: Sequence[Sequence[Judged]],
) -> dict[str, float]:
    """The second phase: the whole model on judged completions. Returns what to record of it."""
    began, num_tokens = time.monotonic(), 0
    sampled = judged_samples(policy, tokenizer, generate("train", NUM_SAMPLED_PROBLEMS, SEED), NUM_SAMPLES)
    optimizers = split_optimizers(model, is_matrix, *PRM_LRS)
    with Progress() as progress:
        progress.console.print(f"sampled in {time.monotonic() - began:.0f} s", highlight=False)
        task = progress.add_task("PRM, judge", total=NUM_PRM_STEPS)
        for step, batch in enumerate(islice(judged_batches(tokenizer, sampled), NUM_PRM_STEPS)):
            loss, batch_tokens = judging_loss(model, tokenizer, batch)
            update(optimizers, loss, PRM_LRS, schedule(step, NUM_PRM_STEPS))
            num_tokens += batch_tokens
            progress.update(task, advance=1)
            if (step + 1) % REPORT_EVERY == 0:
                progress.console.print(f"judge step {step + 1}: loss {loss:.3f}", highlight=False)
            if (step + 1) % EVALUATE_EVERY == 0:
                auroc_so_far = step_auroc(model, tokenizer, dev)
                progress.console.print(f"judge step {step + 1}: dev step AUROC {auroc_so_far:.4f}", highlight=False)
    return {
        "judge_tokens": num_tokens,
        "judge_seconds": round(time.monotonic() - began, 1),
        "policy_samples": NUM_SAMPLED_PROBLEMS * NUM_SAMPLES,
        "dev_step_auroc": round(step_auroc(model, tokenizer, dev), 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_threads": torch.get_num_threads(),
    }


def calibrate(
    model: StreamingPRM, tokenizer: PreTrainedTokenizerFast, dev: Sequence[Sequence[Judged]]
) -> dict[str, float]:
    """Last: the temperature under which the scores of dev steps are probabilities. Returns what to record of it."""
    model.config = replace(model.config, temperature=1.0)
    logits, truths = judged_steps(model, tokenizer, dev)
    temperature = round(fit_temperature(logits.numpy(), truths.numpy()), 4)
    model.config = replace(model.config, temperature=temperature)

    def error(divisor: float) -> float:
        return round(expected_calibration_error(reliability((logits / divisor).sigmoid().numpy(), truths.numpy())), 4)

    return {"temperature": temperature, "dev_ece_before": error(1.0), "dev_ece": error(temperature)}


def save(model: StreamingPRM, tokenizer: PreTrainedTokenizerFast, record: dict[str, float], out: Path) -> None:
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")


def update(optimizers: list[torch.optim.Optimizer], loss: Tensor, lrs: tuple[float, float], share: float) -> None:
    """One step of Muon and AdamW, at a share of their learning rates."""
    loss.backward()
    for optimizer, lr in zip(optimizers, lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = share * lr
        optimizer.step()
        optimizer.zero_grad()


def schedule(step: int, num_steps: int) -> float:
    """Warm-up over 20 steps, then linear to zero."""
    return min((step + 1) / 20, 1 - step / num_steps)


def language_batches(tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids, lengths and the weight of each token's prediction, of correct solutions of fresh problems."""
    rng = random.Random(SEED)
    problems = {top: stream("train", SEED + 1, (1, top)) for top in range(1, MAX_LEVEL + 1)}
    for step in range(0, NUM_LM_STEPS, BATCHES_AT_ONCE):
        top = min(MAX_LEVEL, 1 + int(step / (CURRICULUM_SHARE * NUM_LM_STEPS) * MAX_LEVEL))
        drawn = islice(problems[top], LM_BATCH_SIZE * BATCHES_AT_ONCE)
        rows = sorted((judged(tokenizer, p, p.solution) for p in drawn), key=lambda row: len(row.prompt + row.correct))
        starts = range(0, len(rows), LM_BATCH_SIZE)
        for start in rng.sample(starts, len(starts)):
            yield _language_batch(rows[start : start + LM_BATCH_SIZE])


def _language_batch(rows: Sequence[Judged]) -> tuple[Tensor, Tensor, Tensor]:
    ids, lengths = pad([row.prompt + row.correct for row in rows])
    weights = torch.zeros(ids.shape)
    for i, row in enumerate(rows):
        weights[i, : len(row.prompt) - 1] = PROMPT_WEIGHT
        weights[i, len(row.prompt) - 1 : lengths[i] - 1] = 1
    return ids, lengths, weights


def language_loss(model: StreamingPRM, ids: Tensor, lengths: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted loss, and the loss on completions alone."""
    logits = model.language_logits(ids, lengths, model.initial_state(len(ids)))[:, :-1]
    losses, weights = F.cross_entropy(logits.mT, ids[:, 1:], reduction="none"), weights[:, :-1]
    completions = weights == 1
    return (losses * weights).sum() / completions.sum(), losses[completions].mean()


def judged(tokenizer: PreTrainedTokenizerFast, problem: TinyProblem, completion: str) -> Judged:
    return Judged(
        prompt=prompt_ids(tokenizer, problem.prompt),
        correct=completion_ids(tokenizer, problem.solution),
        completion=completion_ids(tokenizer, completion),
    )


def judged_samples(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[TinyProblem], num_samples: int
) -> list[list[Judged]]:
    """The policy's completions of every problem at temperature 1.0."""
    prompts = [prompt_ids(tokenizer, problem.prompt) for problem in problems]
    completions = sample(
        policy, prompts, num_samples=num_samples, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, seed=SEED
    )
    corrects = [completion_ids(tokenizer, problem.solution) for problem in problems]
    return [
        [Judged(prompt=prompt, correct=correct, completion=row) for row in rows]
        for prompt, correct, rows in zip(prompts, corrects, completions, strict=True)
    ]


def judged_batches(
    tokenizer: PreTrainedTokenizerFast, sampled: list[list[Judged]]
) -> Iterator[list[tuple[Judged, Judged, Judged]]]:
    """Triples that share a prompt: the correct completion, then two wrong ones. Triples of a batch are alike in length.

    Two thirds of the triples hold the policy's own mistakes, one third made-up ones on fresh problems.
    """
    rng = random.Random(SEED)
    fresh = stream("train", SEED + 2, (2, MAX_LEVEL))
    boundary = tokenizer.convert_tokens_to_ids(STEP_DELIMITER)
    wrong_by_problem = [distinct for rows in sampled if (distinct := _distinct_wrong(rows))]
    while True:
        triples = []
        for wrong in rng.sample(wrong_by_problem, 2 * PRM_BATCH_SIZE * BATCHES_AT_ONCE // 3):
            first, second = rng.sample(wrong, 2) if len(wrong) > 1 else wrong * 2
            right = Judged(prompt=first.prompt, correct=first.correct, completion=first.correct)
            triples.append((right, _cut(first, boundary, rng), _cut(second, boundary, rng)))
        for problem in islice(fresh, PRM_BATCH_SIZE * BATCHES_AT_ONCE - len(triples)):
            right = judged(tokenizer, problem, problem.solution)
            first, second = (judged(tokenizer, problem, corrupt(problem.solution, rng)) for _ in range(2))
            triples.append((right, _cut(first, boundary, rng), _cut(second, boundary, rng)))
        triples.sort(key=lambda triple: len(triple[0].correct))
        starts = range(0, len(triples), PRM_BATCH_SIZE)
        yield from (triples[start : start + PRM_BATCH_SIZE] for start in rng.sample(starts, len(starts)))


def _distinct_wrong(rows: list[Judged]) -> list[Judged]:
    return list({tuple(row.completion): row for row in rows if row.completion != row.correct}.values())


def _cut(row: Judged, boundary: int, rng: random.Random) -> Judged:
    """At times only up to the end of the first wrong step."""
    if rng.random() >= CUT_RATE:
        return row
    labels = correct_so_far(row)
    ends = [i for i, token in enumerate(row.completion) if token == boundary and not labels[i]]
    return Judged(
        prompt=row.prompt, correct=row.correct, completion=row.completion[: ends[0] + 1] if ends else row.completion
    )


def correct_so_far(row: Judged) -> list[bool]:
    """Per token: whether the completion up to it is the beginning of the correct one."""
    padded = row.correct + [-1] * max(0, len(row.completion) - len(row.correct))
    agree = (a == b for a, b in zip(row.completion, padded, strict=False))
    return list(accumulate(agree, lambda so_far, same: so_far and same))


def judging_loss(
    model: StreamingPRM, tokenizer: PreTrainedTokenizerFast, batch: Sequence[Sequence[Judged]]
) -> tuple[Tensor, int]:
    """The loss on all completions of a batch, and how many tokens were read for it."""
    prompts, prompt_lengths = pad([rows[0].prompt for rows in batch])
    after_prompt = model(prompts, prompt_lengths, model.initial_state(len(batch))).state
    rows = sorted(((i, row) for i, rows in enumerate(batch) for row in rows), key=lambda pair: len(pair[1].completion))
    num_tokens = int(prompt_lengths.sum())
    columns = []
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):  # short ones and long ones: less padding
        ids, lengths = pad([row.completion for _, row in part])
        labels, _ = pad([correct_so_far(row) for _, row in part])
        output = model(ids, lengths, after_prompt[[i for i, _ in part]])
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        next_correct = labels[:, 1:] == 1
        next_losses = F.cross_entropy(
            output.lm_logits[:, :-1][next_correct], ids[:, 1:][next_correct], reduction="none"
        )
        token_columns = (output.mean_logit, output.concentration, labels.float(), is_step_end(tokenizer, ids))
        columns.append((next_losses, *(column[real] for column in token_columns)))
        num_tokens += int(lengths.sum())
    next_losses, mean_logit, concentration, truth, ends = (torch.cat(parts) for parts in zip(*columns, strict=True))
    bce = F.binary_cross_entropy_with_logits(mean_logit, truth, reduction="none")
    evidence = evidential_loss(mean_logit[ends], concentration[ends], truth[ends], KL_WEIGHT).mean()
    judgement = bce[ends].mean() + TOKEN_WEIGHT * bce.mean()
    return judgement + LM_WEIGHT * next_losses.mean() + EVIDENCE_WEIGHT * evidence, num_tokens


def is_step_end(tokenizer: PreTrainedTokenizerFast, ids: Tensor) -> Tensor:
    ends: Tensor = (ids == tokenizer.convert_tokens_to_ids(STEP_DELIMITER)) | (ids == tokenizer.eos_token_id)
    return ends


@torch.inference_mode()
def judge(model: StreamingPRM, prompt: list[int], completions: Sequence[list[int]]) -> PRMOutput:
    """The PRM's output on completions of one prompt, right-padded."""
    ids, lengths = pad([prompt])
    state = model(ids, lengths, model.initial_state(1)).state.expand(len(completions), -1)
    output: PRMOutput = model(*pad(completions), state)
    return output


def step_auroc(model: StreamingPRM, tokenizer: PreTrainedTokenizerFast, groups: Sequence[Sequence[Judged]]) -> float:
    """Area under the ROC curve of step scores against exact step labels, over all steps of all completions."""
    scores, truths = judged_steps(model, tokenizer, groups)
    return auroc(scores.numpy(), truths.numpy())


def judged_steps(
    model: StreamingPRM, tokenizer: PreTrainedTokenizerFast, groups: Sequence[Sequence[Judged]]
) -> tuple[Tensor, Tensor]:
    """Logits and exact labels (n,) of all steps of all completions."""
    scores, truths = [], []
    for rows in groups:
        output = judge(model, rows[0].prompt, [row.completion for row in rows])
        for row, logits in zip(rows, output.mean_logit, strict=True):
            ends = is_step_end(tokenizer, torch.tensor(row.completion))
            scores.append(logits[: len(ends)][ends])
            truths.append(torch.tensor(correct_so_far(row))[ends])
    return torch.cat(scores), torch.cat(truths)


if __name__ == "__main__":
    main()
