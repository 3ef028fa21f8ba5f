"""Labels of ids agree with those of text, and the losses and measures are what they are called."""

import itertools

import torch

from experiments.tinymath.task import generate, step_labels
from experiments.tinymath.tokenizer import build_tokenizer
from experiments.tinymath.train_prm import (
    PRM_BATCH_SIZE,
    correct_so_far,
    is_step_end,
    judged,
    judged_batches,
    judging_loss,
)
from verifiers.streaming_prm import PRMConfig, StreamingPRM

TOKENIZER = build_tokenizer()


def test_token_labels_at_step_ends_are_the_step_labels() -> None:
    for problem, other in itertools.pairwise(generate("train", 40)):
        half = problem.solution[: len(problem.solution) // 2].rsplit("\n\n", 1)[0]
        for text in (problem.solution, other.solution, f"{half}\n\n{other.solution}"):
            row = judged(TOKENIZER, problem, text)
            ends = is_step_end(TOKENIZER, torch.tensor(row.completion))
            assert torch.tensor(correct_so_far(row))[ends].tolist() == step_labels(problem, text)


def test_batches_hold_a_correct_completion_then_two_wrong_ones() -> None:
    problems = generate("train", 2 * PRM_BATCH_SIZE * 8 // 3)
    sampled = [[judged(TOKENIZER, p, p.solution), judged(TOKENIZER, p, "Answer: 0")] for p in problems]
    for batch in itertools.islice(judged_batches(TOKENIZER, sampled), 3):
        assert len(batch) == PRM_BATCH_SIZE
        for right, *wrong in batch:
            assert all(correct_so_far(right))
            assert not any(all(correct_so_far(row)) for row in wrong)
            assert all(row.prompt == right.prompt for row in wrong)


def test_judging_trains_every_parameter() -> None:
    torch.manual_seed(0)
    config = PRMConfig(
        vocab_size=len(TOKENIZER), width=16, num_layers=1, mlp_width=16, inner=16, head_dim=8, state_dim=8
    )
    model = StreamingPRM(config)
    problem = generate("train", 1)[0]
    rows = [judged(TOKENIZER, problem, text) for text in (problem.solution, "Answer: 0")]
    loss, num_tokens = judging_loss(model, TOKENIZER, [rows])
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert num_tokens == len(rows[0].prompt) + sum(len(row.completion) for row in rows)
