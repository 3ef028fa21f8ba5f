"""Transformer verifiers learn the loss that transformers would compute, and their checkpoints load in transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from verifiers.training.encoding import Encoded
from verifiers.training.transformer import TransformerTrainee

AUTO = {2: transformers.AutoModelForTokenClassification, 1: transformers.AutoModelForSequenceClassification}


def tiny(num_labels: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_labels=num_labels,
        pad_token_id=0,
    )
    return AUTO[num_labels].from_config(config)


def alone(model: Any, row: Encoded) -> Any:
    return model(input_ids=torch.tensor([row.prompt_ids + row.completion_ids])).logits


def test_two_class_loss_is_the_cross_entropy_at_separators(toy: list[Encoded]) -> None:
    model = tiny(2).eval()
    batch = [replace(toy[0], labels=(None, *toy[0].labels[1:])), toy[1], toy[5]]
    learnt = TransformerTrainee(model).backward(batch, step=0)
    losses = [
        F.cross_entropy(alone(model, row)[0, len(row.prompt_ids) + end - 1], torch.tensor(int(label)))
        for row in batch
        for end, label in zip(row.boundaries, row.labels, strict=True)
        if label is not None
    ]
    assert learnt["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_saved_verifier_gives_the_same_scores_in_transformers(
    toy: list[Encoded], tmp_path: Path, num_labels: int
) -> None:
    rows = toy[:4]
    if num_labels == 1:
        rows = [replace(row, boundaries=(len(row.completion_ids),), labels=row.labels[-1:]) for row in rows]
    trainee = TransformerTrainee(tiny(num_labels).eval())
    as_trained = trainee.logits(rows)
    labels = [row.labels for row in rows]
    temperature = trainee.finish([[4 * x for x in row] for row in as_trained], labels)["temperature"]
    trainee.save(tmp_path)
    loaded = AUTO[num_labels].from_pretrained(tmp_path).eval()
    for row, trained, found in zip(rows, as_trained, trainee.logits(rows), strict=True):
        assert found == pytest.approx([logit / temperature for logit in trained], abs=1e-5)
        logits = alone(loaded, row)
        if num_labels == 1:
            wanted = logits[0].tolist()
        else:
            at_ends = logits[0, [len(row.prompt_ids) + end - 1 for end in row.boundaries]]
            wanted = (at_ends[:, 1] - at_ends[:, 0]).tolist()
        assert found == pytest.approx(wanted, abs=1e-5)


def test_another_head_is_refused() -> None:
    config = tiny(2).config
    config.num_labels = 3
    with pytest.raises(ValueError, match="with 3 labels"):
        TransformerTrainee(transformers.AutoModelForTokenClassification.from_config(config))
