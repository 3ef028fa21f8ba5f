"""A real training by TRL, two steps of a random policy, from the command line: what it learns from, says and leaves."""

import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from experiments import cli
from experiments.tinymath.task import generate
from experiments.tinymath.tokenizer import build_tokenizer, prompt_ids
from experiments.tinymath.train_policy import save
from experiments.training import grpo
from experiments.training.held_out import outcome, read_held_out, sample
from orchestrator.core.protocols import Sampling
from tests.experiments.residue import HOST
from verifiers import VERIFIERS, VerifierEntry

CONFIG = {
    "name": "tiny",
    "data": {"name": "tinymath", "split": "train", "num_problems": 4},
    "held_out": {"data": {"name": "tinymath", "split": "test", "num_problems": 3}, "num_samples": 2},
    "sampling": {"temperature": 1.0, "max_tokens": 8},
    "verifier": {"name": "residue"},
    "num_steps": 2,
    "prompts_per_step": 2,
    "num_generations": 4,
    "micro_batch": 4,
    "learning_rate": 0.01,
    "save_every": 1,
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    source: Path  # the policy as it came
    folder: Path  # of a training that never stopped
    resumed: Path  # of one that was killed after its first step and resumed
    said: str
    trainer: Any


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    base = tmp_path_factory.mktemp("grpo")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    save(LlamaForCausalLM(shape), tokenizer, base / "policy")
    path = base / "train.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "model": str(base / "policy"), "results_dir": str(base)}))
    made: list[Any] = []
    build = grpo._trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VERIFIERS, "residue", VerifierEntry(host=HOST))
        patch.setattr(grpo, "_trainer", lambda *args: made.append(build(*args)) or made[-1])

        def headrace(*options: str) -> str:
            patch.setattr(sys, "argv", ["headrace", "train-policy", str(path), *options])
            with redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as exit_:
                cli.main()
            assert exit_.value.code in (None, 0), said.getvalue()
            return said.getvalue()

        said = headrace()
        folder = shutil.copytree(base / "tiny", base / "never_stopped")
        for gone in ("checkpoints/checkpoint-2", "policy", "held_out/step-000002.parquet", "metrics.parquet"):
            target = base / "tiny" / gone
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        headrace("--resume")
    yield Trained(source=base / "policy", folder=folder, resumed=base / "tiny", said=said, trainer=made[0])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    return state


def test_a_training_that_is_resumed_ends_as_one_that_never_stopped(trained):
    before, whole, resumed = (
        weights(f) for f in (trained.source, trained.folder / "policy", trained.resumed / "policy")
    )
    assert any(not torch.equal(before[name], whole[name]) for name in before)
    for name in before:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=1e-6)
    columns = ["step", "reward", "kl", "mean_tokens", "share_masked"]
    first, second = (
        pd.read_parquet(folder / "metrics.parquet")[columns] for folder in (trained.folder, trained.resumed)
    )
    pd.testing.assert_frame_equal(first, second, atol=1e-5)
    pd.testing.assert_frame_equal(read_held_out(trained.folder), read_held_out(trained.resumed))


def test_metrics_have_a_row_per_step(trained):
    metrics = pd.read_parquet(trained.folder / "metrics.parquet")
    assert metrics.step.tolist() == [1, 2]
    assert metrics.kl[0] == pytest.approx(0, abs=1e-6) and metrics.kl[1] > 0
    assert ((metrics.reward_verifier > 0) & (metrics.reward_verifier < 1)).all()
    assert (metrics.share_masked > 0).any()  # what the verifier can't read
    assert (metrics.mean_tokens <= 8).all()
    assert (trained.folder / "training.png").stat().st_size > 10_000


def test_prompts_in_trl_are_those_that_the_policy_knows(trained):
    made = generate("train", 4)
    prompts = [[{"role": "user", "content": problem.prompt}] for problem in made]
    ids, *_ = trained.trainer._tokenize_prompts(prompts)
    assert ids == [prompt_ids(build_tokenizer(), problem.prompt) for problem in made]


def test_the_saved_policy_has_the_configuration_and_the_tokenizer_that_came(trained):
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        files = [folder / name for folder in (trained.source, trained.folder / "policy")]
        assert json.loads(files[0].read_text()) == json.loads(files[1].read_text()), name
    before, after = (AutoTokenizer.from_pretrained(f) for f in (trained.source, trained.folder / "policy"))
    assert (after.chat_template, after.eos_token_id, after.pad_token_id) == (
        before.chat_template,
        before.eos_token_id,
        before.pad_token_id,
    )


def test_it_says_what_was_gained_and_warns_of_a_learned_reward(trained):
    assert "warning: the reward includes residue, a learned verifier" in " ".join(trained.said.split())
    measured = outcome(read_held_out(trained.folder))
    assert measured.num_problems == 3
    assert str(measured) in trained.said


def test_sampling_ends_at_the_end_token_and_leaves_the_global_generator_alone(trained):
    model = AutoModelForCausalLM.from_pretrained(trained.source)
    prompts = [tuple(prompt_ids(build_tokenizer(), problem.prompt)) for problem in generate("dev", 3)]
    state = torch.get_rng_state()
    likely = frozenset(range(1, 20))  # a random policy would hardly ever write the one end token
    draw = dict(end_ids=likely, pad_id=0, num_samples=2, sampling=Sampling(temperature=1.0, max_tokens=12))
    rows, again, apart = (
        sample(model, prompts, **draw, rows_at_once=rows_at_once, seed=seed)
        for rows_at_once, seed in ((6, 1), (6, 1), (6, 2))
    )
    assert rows == again != apart
    assert torch.equal(torch.get_rng_state(), state)
    for row in (row for group in rows for row in group):
        assert not likely & set(row[:-1]) and (row[-1] in likely or len(row) == 12)
    assert [len(group) for group in rows] == [2, 2, 2]
