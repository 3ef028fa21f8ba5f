"""Samples of the tiny policy with exact step labels: `python -m experiments.tinymath.labelled --out DIR`.

Writes train.parquet and validation.parquet of `verifiers.training.labelled`, on train and dev problems: what
`configs/train_prm.yaml` reads.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.tinymath.sampling import sample
from experiments.tinymath.task import STEP_DELIMITER, TinyProblem, generate
from experiments.tinymath.tokenizer import EOS, build_tokenizer, completion_ids, prompt_ids
from experiments.tinymath.train_prm import MAX_NEW_TOKENS, SEED, Judged, correct_so_far, is_step_end
from verifiers.training.labelled import LabelledSolution, write_labelled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=Path(__file__).parent / "models" / "policy")
    parser.add_argument("--out", type=Path, default=Path("results/tinymath_labelled"))
    parser.add_argument("--num-problems", type=int, default=1500)
    parser.add_argument("--num-samples", type=int, default=4)
    arguments = parser.parse_args()
    tokenizer = build_tokenizer()
    policy = LlamaForCausalLM.from_pretrained(arguments.policy)
    parts = {"train": ("train", arguments.num_problems), "validation": ("dev", max(1, arguments.num_problems // 10))}
    for name, (split, num_problems) in parts.items():
        problems = generate(split, num_problems, SEED)
        solutions = exactly_labelled(policy, tokenizer, problems, arguments.num_samples)
        write_labelled(solutions, arguments.out / f"{name}.parquet")
        print(f"{len(solutions)} solutions of {num_problems} {split} problems: {arguments.out / name}.parquet")


def exactly_labelled(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[TinyProblem], num_samples: int
) -> list[LabelledSolution]:
    """The policy's completions at temperature 1.0. One cut by the token limit ends with an unfinished, wrong step."""
    prompts = [prompt_ids(tokenizer, problem.prompt) for problem in problems]
    completions = sample(
        policy, prompts, num_samples=num_samples, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, seed=SEED
    )
    return [
        labelled(tokenizer, problem, row) for problem, rows in zip(problems, completions, strict=True) for row in rows
    ]


def labelled(tokenizer: PreTrainedTokenizerFast, problem: TinyProblem, completion: list[int]) -> LabelledSolution:
    """A completion, as ids, with the exact label of each step."""
    prompt, right = prompt_ids(tokenizer, problem.prompt), completion_ids(tokenizer, problem.solution)
    rights = correct_so_far(Judged(prompt=prompt, correct=right, completion=completion))
    last = len(completion) - 1
    ends = [i for i, end in enumerate(is_step_end(tokenizer, torch.tensor(completion)).tolist()) if end or i == last]
    steps = [tuple(completion[start + 1 : end + 1]) for start, end in zip([-1, *ends], ends, strict=False)]
    texts = [tokenizer.decode(list(step)).removesuffix(EOS).removesuffix(STEP_DELIMITER) for step in steps]
    return LabelledSolution(
        problem_id=problem.id,
        source="exact",
        prompt=problem.prompt,
        completions=tuple(texts),
        labels=tuple(float(rights[end]) for end in ends),
        prompt_ids=tuple(prompt),
        step_ids=tuple(steps),
    )


if __name__ == "__main__":
    main()
