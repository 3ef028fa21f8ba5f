"""Trains the tiny policy from scratch on correct solutions: `python -m experiments.tinymath.train_policy --out DIR`.

It stops short of mastery on purpose, as soon as dev pass@1 reaches `TARGET_PASS_AT_1`, so that there is something for
test-time compute to win. Seeds are fixed.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.tinymath.corruptions import corrupt
from experiments.tinymath.sampling import sample
from experiments.tinymath.task import MAX_LEVEL, TinyProblem, extract_answer, generate, stream
from experiments.tinymath.tokenizer import WAIT, build_tokenizer, completion_ids, prompt_ids
from verifiers.training.muon import Muon, split_optimizers

SEED = 0
NUM_STEPS = 1200
BATCH_SIZE = 32
MUON_LR, ADAM_LR = 0.012, 3e-3
CURRICULUM_SHARE = 0.4  # of the steps, while the number of steps of a problem grows from 1 to 8
WAIT_RATE = 0.06  # of the samples: a wrong attempt, "Wait", and a correct second attempt
MAX_NEW_TOKENS = 120

TARGET_PASS_AT_1 = 0.385
FIRST_EVALUATION, EVALUATE_EVERY = 500, 50
NUM_DEV_PROBLEMS, NUM_DEV_SAMPLES = 250, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models" / "policy")
    out: Path = parser.parse_args().out
    began = time.monotonic()
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = build_policy(tokenizer)
    num_tokens = done = 0
    accuracy = 0.0
    optimizers = split_optimizers(model, is_matrix, MUON_LR, ADAM_LR)
    with Progress() as progress:
        task = progress.add_task("policy", total=NUM_STEPS)
        for step, (ids, targets) in enumerate(batches(tokenizer)):
            set_learning_rates(optimizers, step)
            loss = completion_loss(model, ids, targets)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            num_tokens += int((ids != tokenizer.pad_token_id).sum())
            done = step + 1
            if done >= FIRST_EVALUATION and (done % EVALUATE_EVERY == 0 or done == NUM_STEPS):
                accuracy = dev_pass_at_1(model, tokenizer)
                progress.console.print(f"step {done}: loss {loss:.3f}, dev pass@1 {accuracy:.3f}", highlight=False)
                if accuracy >= TARGET_PASS_AT_1:
                    break
            if done % 50 == 0:
                progress.console.print(f"step {done}: loss {loss:.3f}", highlight=False)
            progress.update(task, advance=1, description=f"policy, loss {loss:.3f}")
    save(model, tokenizer, out)
    record = {
        "seed": SEED,
        "num_parameters": model.num_parameters(),
        "num_training_tokens": num_tokens,
        "num_training_steps": done,
        "dev_pass_at_1": round(accuracy, 4),
        "training_seconds": round(time.monotonic() - began, 1),
        "num_threads": torch.get_num_threads(),
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


def build_policy(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained policy: about 0.75 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def is_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name


def batches(tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and next-token targets (batch, length) of every training step."""
    rng = random.Random(SEED)
    problems = {top: stream("train", SEED, (1, top)) for top in range(1, MAX_LEVEL + 1)}
    for step in range(NUM_STEPS):
        top = min(MAX_LEVEL, 1 + int(step / (CURRICULUM_SHARE * NUM_STEPS) * MAX_LEVEL))
        rows = [_row(problem, tokenizer, rng) for problem in itertools.islice(problems[top], BATCH_SIZE)]
        yield padded(rows, tokenizer.pad_token_id)


def padded(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    """Of (context, learnt) rows: ids and next-token targets (rows, length), -100 where nothing is learnt."""
    ids = torch.full((len(rows), max(len(context) + len(learnt) for context, learnt in rows)), pad)
    targets = torch.full_like(ids, -100)
    for i, (context, learnt) in enumerate(rows):
        end = len(context) + len(learnt)
        ids[i, :end] = torch.tensor(context + learnt)
        targets[i, len(context) - 1 : end - 1] = ids[i, len(context) : end]
    return ids, targets


def _row(problem: TinyProblem, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[list[int], list[int]]:
    context, learnt = prompt_ids(tokenizer, problem.prompt), completion_ids(tokenizer, problem.solution)
    if rng.random() < WAIT_RATE:
        wait, blank = tokenizer.convert_tokens_to_ids([WAIT, "\n\n"])
        first_attempt = completion_ids(tokenizer, corrupt(problem.solution, rng))
        joint = rng.choice(([], [blank]))
        context = [*context, *first_attempt[:-1], *joint, wait]
        learnt = [blank, *learnt]
    return context, learnt


def completion_loss(model: LlamaForCausalLM, ids: Tensor, targets: Tensor) -> Tensor:
    learnt = targets != -100
    hidden = model.model(input_ids=ids).last_hidden_state[learnt]  # right-padded and causal: no mask is needed
    return F.cross_entropy(model.lm_head(hidden), targets[learnt])


def set_learning_rates(optimizers: list[torch.optim.Optimizer], step: int) -> None:
    """Warm-up over 20 steps, then linear to zero."""
    share = min((step + 1) / 20, 1 - step / NUM_STEPS)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * (MUON_LR if isinstance(optimizer, Muon) else ADAM_LR)


def dev_pass_at_1(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    problems = generate("dev", NUM_DEV_PROBLEMS)
    completions = sample(
        model,
        [prompt_ids(tokenizer, problem.prompt) for problem in problems],
        num_samples=NUM_DEV_SAMPLES,
        temperature=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=SEED,
    )
    hits = [
        extract_answer(tokenizer.decode(ids)) == problem.answer
        for problem, rows in zip(problems, completions, strict=True)
        for ids in rows
    ]
    return sum(hits) / len(hits)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """A standard Hugging Face checkpoint, as transformers and vLLM load it."""
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
