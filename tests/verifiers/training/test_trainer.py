"""A training that was interrupted and resumed ends as one that was not, and the toy task is learnt."""

import copy
from pathlib import Path

import pytest
import torch

from verifiers.streaming_prm import StreamingPRM
from verifiers.training.encoding import Encoded
from verifiers.training.streaming import LossWeights, StreamingTrainee
from verifiers.training.trainer import METRICS, OptimizerSettings, Trainer, TrainerSettings


def trainer(prm: StreamingPRM, toy: list[Encoded], num_steps: int) -> Trainer:
    trainee = StreamingTrainee(copy.deepcopy(prm), LossWeights(consistency=0.1), tbptt_tokens=8)
    optimizer = OptimizerSettings(lr=5e-3, muon_lr=2e-2, warmup_steps=2)
    settings = TrainerSettings(
        num_steps=num_steps, batch_tokens=300, per_problem=3, validate_every=4, seed=0, optimizer=optimizer
    )
    return Trainer(trainee, toy[:90], toy[90:], settings)


def test_a_resumed_training_ends_as_an_uninterrupted_one(prm: StreamingPRM, toy: list[Encoded], tmp_path: Path) -> None:
    whole, first, second = (trainer(prm, toy, num_steps=9) for _ in range(3))
    assert whole.run(lambda row: None, lambda: False)
    assert not first.run(lambda row: None, lambda: first.step == 5)
    first.save(tmp_path / "checkpoint.pt", "identity")
    second.restore(tmp_path / "checkpoint.pt", "identity")
    assert second.run(lambda row: None, lambda: False)
    for name, tensor in whole.trainee.model.state_dict().items():
        assert tensor.equal(second.trainee.model.state_dict()[name]), name
    for ours, theirs in zip(whole.rows, second.rows, strict=True):
        assert {**ours, "seconds": None} == {**theirs, "seconds": None}
    assert [row["step"] for row in whole.rows if row["ece"] is not None] == [4, 8, 9]


def test_a_checkpoint_of_another_training_is_refused(prm: StreamingPRM, toy: list[Encoded], tmp_path: Path) -> None:
    ours = trainer(prm, toy, num_steps=1)
    ours.save(tmp_path / "checkpoint.pt", "identity")
    with pytest.raises(ValueError, match="another configuration"):
        ours.restore(tmp_path / "checkpoint.pt", "other")
    (tmp_path / "checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="can't be read"):
        ours.restore(tmp_path / "checkpoint.pt", "identity")


def test_the_toy_task_is_learnt(prm: StreamingPRM, toy: list[Encoded]) -> None:
    torch.manual_seed(0)
    learner = trainer(prm, toy, num_steps=40)
    learner.run(lambda row: None, lambda: False)
    last = learner.rows[-1]
    assert set(METRICS) <= last.keys()
    assert last["step_auroc"] is not None and last["step_auroc"] > 0.85
    logits, labels = learner.judged()
    fitted = learner.trainee.finish(logits, labels)
    assert learner.judged()[0][0][0] == pytest.approx(logits[0][0] / fitted["temperature"], rel=1e-4)
