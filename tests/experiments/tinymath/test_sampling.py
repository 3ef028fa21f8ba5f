"""The training sampler writes what transformers' own generation writes, whatever shares its batch."""

import torch

from experiments.tinymath.sampling import sample
from experiments.tinymath.task import generate
from experiments.tinymath.tokenizer import build_tokenizer, prompt_ids
from experiments.tinymath.train_policy import build_policy

TOKENIZER = build_tokenizer()
PROMPTS = [prompt_ids(TOKENIZER, problem.prompt) for problem in generate("dev", 5)]


def test_greedy_samples_equal_those_of_transformers() -> None:
    torch.manual_seed(0)
    policy = build_policy(TOKENIZER).eval()
    with torch.no_grad():
        policy.model.embed_tokens.weight.mul_(20)  # spreads the logits of an untrained model
    rows = sample(policy, PROMPTS, num_samples=1, temperature=0.0, max_new_tokens=12, seed=0)
    for prompt, (row,) in zip(PROMPTS, rows, strict=True):
        wanted = policy.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12, do_sample=False
        )[0, len(prompt) :].tolist()
        assert row == wanted


def test_samples_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    policy = build_policy(TOKENIZER).eval()
    first, again, other = (
        sample(policy, PROMPTS, num_samples=3, temperature=1.0, max_new_tokens=8, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert all(len(rows) == 3 for rows in first)
