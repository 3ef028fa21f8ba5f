"""Trains a tiny generative PRM from the tiny policy: `python -m experiments.tinymath.train_judge --out DIR`.

It learns to write, for a problem and the numbered steps of a solution, what each step should be, what its result is
instead, and whether it is right: the chains that `verifiers.generative` reads. Nearly half of the steps that it learns
from are wrong, each for itself: where most are right it learns to copy what it should check. With the two results side
by side it learns to compare them; without, it did not. Seeds are fixed.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.tinymath.corruptions import corrupt_steps
from experiments.tinymath.sampling import sample
from experiments.tinymath.task import MAX_LEVEL, STEP_DELIMITER, TinyProblem, generate, step_labels, stream
from experiments.tinymath.tokenizer import EOS, build_tokenizer, prompt_ids
from experiments.tinymath.train_policy import build_policy, completion_loss, is_matrix, padded, save
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Solution
from verifiers.generative import GenerativePRM, correct_steps
from verifiers.training.muon import split_optimizers
from verifiers.weighing import Abstention

SEED = 0
JUDGE = GenerativePRM(template="{problem}\n\n{solution}", chains=1, temperature=0.0, max_tokens=240)
GOT, CORRECT, INCORRECT = ", got", " \\boxed{correct}", " \\boxed{incorrect}"
WORDS = ("Step", " Answer", GOT, CORRECT, INCORRECT)
NUM_STEPS, BATCH_SIZE = 1200, 32
MUON_LR, ADAM_LR = 0.012, 3e-3
CURRICULUM_SHARE = 0.4  # of the steps, while the number of steps of a problem grows from 1 to 8
WRONG_RATE = 0.45  # of the steps of made-up solutions
SAMPLED_SHARE = 0.3  # of the solutions, at the end of the curriculum, are the policy's own
NUM_SAMPLED_PROBLEMS, NUM_SAMPLES, MAX_NEW_TOKENS = 3000, 4, 120
NUM_DEV_PROBLEMS, NUM_DEV_SAMPLES = 100, 4
REPORT_EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=Path(__file__).parent / "models" / "policy")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(SEED)
    policy = LlamaForCausalLM.from_pretrained(arguments.policy)
    sampled = sampled_solutions(policy, generate("train", NUM_SAMPLED_PROBLEMS, SEED), NUM_SAMPLES)
    tokenizer = judge_tokenizer()
    judge = from_policy(policy, tokenizer)
    optimizers = split_optimizers(judge, is_matrix, MUON_LR, ADAM_LR)
    num_tokens = 0
    with Progress() as progress:
        task = progress.add_task("judge", total=NUM_STEPS)
        for step, (ids, targets) in enumerate(batches(tokenizer, sampled)):
            loss = completion_loss(judge, ids, targets)
            loss.backward()
            share = min((step + 1) / 20, 1 - step / NUM_STEPS)  # warm-up, then linear to zero
            for optimizer, lr in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = share * lr
                optimizer.step()
                optimizer.zero_grad()
            num_tokens += int((ids != tokenizer.pad_token_id).sum())
            progress.update(task, advance=1)
            if (step + 1) % REPORT_EVERY == 0:
                progress.console.print(f"judge step {step + 1}: loss {loss:.3f}", highlight=False)
    dev = sampled_solutions(policy, generate("dev", NUM_DEV_PROBLEMS), NUM_DEV_SAMPLES)
    save(judge, tokenizer, arguments.out)
    record = {
        "seed": SEED,
        "num_parameters": judge.num_parameters(),
        "num_training_tokens": num_tokens,
        **first_errors_found(judge, tokenizer, dev),
        "training_seconds": round(time.monotonic() - began, 1),
        "num_threads": torch.get_num_threads(),
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


def judge_tokenizer() -> PreTrainedTokenizerFast:
    """The policy's, with the words of a verdict after its own."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(list(WORDS))
    return tokenizer


def from_policy(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The policy with a larger vocabulary, whose first words are its own."""
    judge = build_policy(tokenizer)
    weights = policy.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], judge.state_dict()[name][len(weights[name]) :]])
    judge.load_state_dict(weights)
    return judge


def sampled_solutions(
    policy: LlamaForCausalLM, problems: Sequence[TinyProblem], num_samples: int
) -> list[tuple[TinyProblem, str]]:
    """The policy's solutions of each problem, different ones only."""
    tokenizer = build_tokenizer()
    prompts = [prompt_ids(tokenizer, problem.prompt) for problem in problems]
    rows = sample(policy, prompts, num_samples=num_samples, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, seed=SEED)
    return [
        (problem, text)
        for problem, completions in zip(problems, rows, strict=True)
        for text in dict.fromkeys(tokenizer.decode(ids, skip_special_tokens=True) for ids in completions)
    ]


def steps_of(solution: str) -> tuple[str, ...]:
    return tuple(solution.removesuffix(STEP_DELIMITER).split(STEP_DELIMITER))


def question(problem: TinyProblem, solution: str) -> str:
    """What `JUDGE` asks about a whole solution."""
    steps = steps_of(solution)
    shown = Solution(problem=Problem.from_prompt(problem.id, problem.prompt), steps=steps)
    return JUDGE.prompt(shown, len(steps))


def chain(problem: TinyProblem, solution: str) -> str:
    """What is to be written about a solution: of each step what it should be (nothing, past the end), its result, and
    whether it is right, whatever the steps before it were."""
    got = steps_of(solution)
    wanted = problem.solution.split(STEP_DELIMITER)[: len(got)]
    return "\n".join(
        f"Step {number}:{f' {right}' if right else ''}{GOT} {result_of(step)}{CORRECT if step == right else INCORRECT}"
        for number, (step, right) in enumerate(zip_longest(got, wanted), start=1)
    )


def result_of(step: str) -> str:
    """What comes after the last `=`, or after `Answer:`."""
    return step.rpartition("=")[2].rpartition(":")[2].strip()


def batches(
    tokenizer: PreTrainedTokenizerFast, sampled: Sequence[tuple[TinyProblem, str]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and next-token targets of every training step."""
    rng = random.Random(SEED)
    problems = {top: stream("train", SEED + 3, (1, top)) for top in range(1, MAX_LEVEL + 1)}
    for step in range(NUM_STEPS):
        progress = step / (CURRICULUM_SHARE * NUM_STEPS)
        top = min(MAX_LEVEL, 1 + int(progress * MAX_LEVEL))
        rows = []
        for _ in range(BATCH_SIZE):
            if progress > 1 and rng.random() < SAMPLED_SHARE:
                problem, solution = rng.choice(sampled)
            else:
                problem = next(problems[top])
                solution = corrupt_steps(problem.solution, WRONG_RATE, rng)
            learnt = tokenizer.encode(chain(problem, solution) + EOS, add_special_tokens=False)
            rows.append((prompt_ids(tokenizer, question(problem, solution)), learnt))
        yield padded(rows, tokenizer.pad_token_id)


def first_errors_found(
    judge: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, solutions: Sequence[tuple[TinyProblem, str]]
) -> dict[str, float]:
    """Of solutions by the policy: the shares in which a greedy chain finds the first error (or that there is none),
    among the wrong and among the right ones; and the share of chains that can't be read, which find nothing."""
    prompts = [prompt_ids(tokenizer, question(problem, solution)) for problem, solution in solutions]
    rows = sample(judge, prompts, num_samples=1, temperature=0.0, max_new_tokens=JUDGE.max_tokens, seed=SEED)
    found: dict[bool, list[bool]] = {True: [], False: []}
    unread = 0
    for (problem, solution), (ids,) in zip(solutions, rows, strict=True):
        labels = step_labels(problem, solution)
        try:
            num_correct = correct_steps(tokenizer.decode(ids, skip_special_tokens=True), len(labels))
        except Abstention:
            unread += 1
            num_correct = None
        found[all(labels)].append(num_correct == sum(labels))
    return {
        "dev_found_in_wrong": round(sum(found[False]) / len(found[False]), 4),
        "dev_found_in_right": round(sum(found[True]) / len(found[True]), 4),
        "dev_unread": round(unread / len(solutions), 4),
    }


if __name__ == "__main__":
    main()
