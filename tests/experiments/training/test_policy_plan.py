"""A training's configuration and folder, before anything heavy is imported."""

import pytest
import yaml

from experiments.config import PROJECT_ROOT
from experiments.doctor import TINY_POLICY, TINY_PRM
from experiments.training.policy_plan import find_checkpoint, plan_policy, start_folder
from orchestrator.core.errors import UserError
from tests.experiments.residue import HOST
from verifiers import VERIFIERS, VerifierEntry

GOOD = {
    "name": "x",
    "model": str(TINY_POLICY),
    "data": {"name": "tinymath", "split": "train", "num_problems": 20},
    "held_out": {"data": {"name": "tinymath", "split": "test", "num_problems": 4}},
}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "results_dir": str(tmp_path / "results")}))
    return lambda *overrides: plan_policy(path, list(overrides))


def test_the_defaults_are_groups_of_16_a_small_divergence_and_the_graders_verdict_alone(plan):
    made = plan()
    assert (made.config.num_generations, made.config.beta, made.config.sampling.temperature) == (16, 0.001, 1.0)
    assert made.config.verifier is None and made.config.data.equality == "exact"
    assert made.warning is None


def test_the_shipped_config_is_valid_and_rewards_what_can_be_verified():
    made = plan_policy(PROJECT_ROOT / "configs" / "train_policy.yaml", [])
    assert made.warning is None
    assert made.held_out is not None and len(made.held_out.examples) >= 320


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_generation=4", "num_generation"),
        ("num_generations=1", "num_generations: must be >= 2, got 1"),
        ("micro_batch=60", "micro_batch: must divide .* = 256, got 60"),
        ("beta=-1", "beta: must be >= 0"),
        ("learning_rate=0", "learning_rate: must be > 0"),
        ("sampling.temperature=0", "temperature must be > 0"),
        ("grader_weight=0", "nothing would be rewarded"),
        ("held_out.num_samples=0", "num_samples must be >= 1"),
        ("name=a/b", "plain folder name"),
        ("model=nowhere", "no folder nowhere"),
        (f"model={TINY_PRM}", "not a causal language model"),
        ("verifier={name: stream}", "unknown name 'stream'"),
        ("verifier={name: llm_judge}", "llm_judge can't be read within a training; wanted one of streaming_prm"),
        ("data.num_problems=8", "has 8 problems, wanted at least 16"),
        ("data.grader=maths", "wanted one of exact, math"),
        ("held_out.data.split=train", "4 of its problems are trained on"),
    ],
)
def test_a_bad_setting_is_refused(plan, override, message):
    with pytest.raises(UserError, match=message):
        plan(override)


def test_a_learned_reward_is_warned_of_and_a_rule_is_not(plan, monkeypatch):
    warning = plan(f"verifier={{name: streaming_prm, model: {TINY_PRM}}}").warning
    assert warning is not None and "reward hacking" in warning and "streaming_prm" in warning
    monkeypatch.setitem(VERIFIERS, "rule", VerifierEntry(host=HOST, learned=False))
    assert plan("verifier={name: rule}").warning is None


def test_a_training_is_continued_or_replaced_on_purpose_only(plan):
    made = plan()
    assert find_checkpoint(made, resume=False, overwrite=False) is None
    assert not made.folder.exists()  # nothing is written before the models are loaded
    start_folder(made)
    with pytest.raises(UserError, match="already holds a training; wanted --resume"):
        find_checkpoint(made, resume=False, overwrite=False)
    assert find_checkpoint(made, resume=True, overwrite=False) is None
    for number, whole in ((9, True), (10, True), (11, False)):
        folder = made.checkpoints / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "trainer_state.json").touch()
    checkpoint = find_checkpoint(made, resume=True, overwrite=False)
    assert checkpoint is not None and checkpoint.name == "checkpoint-10"
    with pytest.raises(UserError, match="another configuration"):
        find_checkpoint(plan("seed=1"), resume=True, overwrite=False)
    with pytest.raises(UserError, match="exclude each other"):
        find_checkpoint(made, resume=True, overwrite=True)
    assert find_checkpoint(made, resume=False, overwrite=True) is None
    assert made.checkpoints.exists()
    start_folder(made)
    assert not made.checkpoints.exists()


def test_a_folder_of_something_else_is_left_alone(plan):
    made = plan()
    made.folder.mkdir(parents=True)
    (made.folder / "thesis.tex").touch()
    for resume, overwrite in ((False, False), (False, True), (True, False)):
        with pytest.raises(UserError, match="holds no training"):
            find_checkpoint(made, resume=resume, overwrite=overwrite)
