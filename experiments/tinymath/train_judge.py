"""Trains a tiny generative PRM from the tiny policy: `python -m experiments.tinymath.train_judge --out DIR`.

It learns to write, for a problem and the numbered steps of a solution, each correct step beside its verdict, up to the
first fault: the chains that `verifiers.generative` reads. Wrong solutions are the policy's own and made-up ones. Seeds
are fixed.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.tinymath.corruptions import corrupt
from experiments.tinymath.sampling import sample
from experiments.tinymath.task import MAX_LEVEL, STEP_DELIMITER, TinyProblem, generate, step_labels, stream
from experiments.tinymath.tokenizer import EOS, build_tokenizer, prompt_ids
from experiments.tinymath.train_policy import build_policy, completion_loss, is_matrix, padded, save
from verifiers.training.muon import split_optimizers

SEED = 0
TEMPLATE = "{problem}\n\n{solution}"  # of `verifier.options` with this judge
WORDS = ("Step", " Answer", " \\", "boxed", "{", "}", "correct", "incorrect")
NUM_STEPS, BATCH_SIZE = 800, 32
MUON_LR, ADAM_LR = 0.01, 2.5e-3
NUM_SAMPLED_PROBLEMS, NUM_SAMPLES, MAX_NEW_TOKENS = 3000, 4, 120
CORRECT_RATE, CUT_RATE = 0.3, 0.3  # of made-up solutions; of all, cut after a step
REPORT_EVERY = 50


def main() -> None:
    models = Path(__file__).parent / "models"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=models / "policy")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(SEED)
    policy = LlamaForCausalLM.from_pretrained(arguments.policy)
    sampled = sampled_solutions(policy, generate("train", NUM_SAMPLED_PROBLEMS, SEED))
    tokenizer = build_tokenizer(WORDS)
    judge = from_policy(policy, tokenizer)
    optimizers = split_optimizers(judge, is_matrix, MUON_LR, ADAM_LR)
    with Progress() as progress:
        task = progress.add_task("judge", total=NUM_STEPS)
        for step, (ids, targets) in enumerate(batches(tokenizer, sampled)):
            share = min((step + 1) / 20, 1 - step / NUM_STEPS)
            loss = completion_loss(judge, ids, targets)
            loss.backward()
            for optimizer, lr in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = share * lr
                optimizer.step()
                optimizer.zero_grad()
            progress.update(task, advance=1)
            if (step + 1) % REPORT_EVERY == 0:
                progress.console.print(f"judge step {step + 1}: loss {loss:.3f}", highlight=False)
    save(judge, tokenizer, arguments.out)
    record = {"seed": SEED, "parameters": judge.num_parameters(), "seconds": round(time.monotonic() - began, 1)}
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


def from_policy(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The policy with a larger vocabulary, whose first words are its own."""
    judge = build_policy(tokenizer)
    weights = policy.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], judge.state_dict()[name][len(weights[name]) :]])
    judge.load_state_dict(weights)
    return judge


def sampled_solutions(policy: LlamaForCausalLM, problems: Sequence[TinyProblem]) -> list[tuple[TinyProblem, str]]:
    """The policy's solutions of each problem, different ones only."""
    tokenizer = build_tokenizer()
    prompts = [prompt_ids(tokenizer, problem.prompt) for problem in problems]
    rows = sample(policy, prompts, num_samples=NUM_SAMPLES, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, seed=SEED)
    return [
        (problem, text)
        for problem, completions in zip(problems, rows, strict=True)
        for text in dict.fromkeys(tokenizer.decode(ids, skip_special_tokens=True) for ids in completions)
    ]


def chain(problem: TinyProblem, solution: str) -> str:
    """What the judge is to write about a solution."""
    correct, lines = problem.solution.split(STEP_DELIMITER), []
    for index, is_correct in enumerate(step_labels(problem, solution)):
        step = f" {correct[index]}" if index < len(correct) else ""
        lines.append(f"Step {index + 1}:{step} \\boxed{{{'correct' if is_correct else 'incorrect'}}}")
        if not is_correct:
            break
    return "\n".join(lines)


def question(problem: TinyProblem, solution: str) -> str:
    """As `verifiers.written` asks it with `TEMPLATE`."""
    steps = solution.split(STEP_DELIMITER)
    numbered = "\n".join(f"Step {number}: {step.strip()}" for number, step in enumerate(steps, start=1))
    return TEMPLATE.format(problem=problem.prompt, solution=numbered)


def batches(
    tokenizer: PreTrainedTokenizerFast, sampled: Sequence[tuple[TinyProblem, str]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and next-token targets of every training step; half the policy's solutions, half made-up ones."""
    rng = random.Random(SEED)
    fresh = stream("train", SEED + 3, (2, MAX_LEVEL))
    for _ in range(NUM_STEPS):
        rows = []
        for index in range(BATCH_SIZE):
            if index % 2:
                problem, solution = rng.choice(sampled)
            else:
                problem = next(fresh)
                solution = problem.solution if rng.random() < CORRECT_RATE else corrupt(problem.solution, rng)
            solution = solution.removesuffix(STEP_DELIMITER)
            if rng.random() < CUT_RATE:
                steps = solution.split(STEP_DELIMITER)
                solution = STEP_DELIMITER.join(steps[: rng.randint(1, len(steps))])
            learnt = tokenizer.encode(chain(problem, solution) + EOS, add_special_tokens=False)
            rows.append((prompt_ids(tokenizer, question(problem, solution)), learnt))
        yield padded(rows, tokenizer.pad_token_id)


if __name__ == "__main__":
    main()
