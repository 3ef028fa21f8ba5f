"""Labelled solutions of the tiny task for tests."""

import torch
from transformers import PreTrainedTokenizerFast

from experiments.tinymath.task import STEP_DELIMITER, TinyProblem
from experiments.tinymath.tokenizer import EOS, completion_ids, prompt_ids
from experiments.tinymath.train_prm import Judged, correct_so_far, is_step_end
from verifiers.training.labelled import LabelledSolution


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
