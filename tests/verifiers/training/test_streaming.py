"""Truncated backpropagation: the loss and the scores are those of the whole, the memory is that of a piece."""

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.verifiers.training.conftest import solution
from verifiers.streaming_prm import StreamingPRM
from verifiers.training.encoding import Encoded
from verifiers.training.losses import evidential_loss
from verifiers.training.streaming import LossWeights, StreamingTrainee, freeze_trunk, with_fresh_verifier

WEIGHTS = LossWeights(boundary=1.0, token=0.5, lm=0.7, evidence=0.3, consistency=2.0)
WHOLE = 1000


@pytest.fixture
def batch() -> list[Encoded]:
    """Two solutions share a prompt; labels are hard, soft, and missing."""
    rng = random.Random(1)
    rows = [solution(rng, problem, num_steps) for problem, num_steps in ((0, 4), (0, 2), (1, 3))]
    rows[0] = replace(rows[0], labels=(1.0, None, 0.25, 0.25))
    return [*rows, replace(rows[1], labels=(1.0, 0.0))]


def straightforward_loss(model: StreamingPRM, batch: Sequence[Encoded]) -> torch.Tensor:
    """Row by row, prompt and completion in one pass, every term as it is defined."""
    terms: dict[str, list[torch.Tensor]] = {"boundary": [], "token": [], "evidence": [], "consistency": [], "lm": []}
    lm_weight = 0.0
    for row in batch:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        output = model(ids, torch.tensor([ids.shape[1]]), model.initial_state(1))
        first = len(row.prompt_ids)
        before, start = 1.0, 0
        for end, label in zip(row.boundaries, row.labels, strict=True):
            logit = output.mean_logit[0, first + end - 1]
            if label is not None:
                target = torch.tensor(label)
                terms["boundary"].append(F.binary_cross_entropy_with_logits(logit, target))
                concentration = output.concentration[0, first + end - 1]
                terms["evidence"].append(evidential_loss(logit, concentration, target))
                for t in range(start, end):
                    if label == before:
                        token_logit = output.mean_logit[0, first + t]
                        terms["token"].append(F.binary_cross_entropy_with_logits(token_logit, target))
                    if t:
                        next_token = F.cross_entropy(output.lm_logits[0, first + t - 1], ids[0, first + t])
                        terms["lm"].append(label * next_token)
                        lm_weight += label
            if start:
                rise = logit.sigmoid() - output.mean_logit[0, first + start - 1].sigmoid()
                terms["consistency"].append(rise.clamp(min=0))
            before, start = label if label is not None else float("nan"), end
    means = {name: torch.stack(found).mean() for name, found in terms.items()}
    means["lm"] = torch.stack(terms["lm"]).sum() / lm_weight
    return torch.stack([getattr(WEIGHTS, name) * mean for name, mean in means.items()]).sum()


def gradients(model: StreamingPRM) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_one_piece_has_the_gradients_of_full_backpropagation(prm: StreamingPRM, batch: list[Encoded]) -> None:
    model, reference = copy.deepcopy(prm), copy.deepcopy(prm)
    learnt = StreamingTrainee(model, WEIGHTS, tbptt_tokens=WHOLE).backward(batch, step=0)
    loss = straightforward_loss(reference, batch)
    loss.backward()
    assert learnt["loss"] == pytest.approx(loss.item(), rel=1e-5)
    wanted = gradients(reference)
    assert len(wanted) == len(list(model.parameters()))
    for name, found in gradients(model).items():
        torch.testing.assert_close(found, wanted[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("tbptt_tokens", [2, 3, 7])
def test_truncation_changes_neither_loss_nor_scores(prm: StreamingPRM, batch: list[Encoded], tbptt_tokens: int) -> None:
    whole = StreamingTrainee(copy.deepcopy(prm), WEIGHTS, tbptt_tokens=WHOLE)
    pieces = StreamingTrainee(copy.deepcopy(prm), WEIGHTS, tbptt_tokens=tbptt_tokens)
    assert pieces.backward(batch, step=0) == pytest.approx(whole.backward(batch, step=0), rel=1e-4)
    for found, wanted in zip(pieces.logits(batch), whole.logits(batch), strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)


def peak_graph_bytes(trainee: StreamingTrainee, batch: list[Encoded]) -> int:
    """Most bytes that the graph held at once for a later backward pass."""
    held = peak = 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal held, peak
            self.tensor, self.size = tensor.detach(), tensor.numel() * tensor.element_size()
            held += self.size
            peak = max(peak, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        trainee.backward(batch, step=0)
    return peak


def test_memory_is_that_of_a_piece_whatever_the_length_of_prompt_and_completion(prm: StreamingPRM) -> None:
    def longer(factor: int) -> list[Encoded]:
        row = solution(random.Random(0), 0, 8 * factor, step_tokens=4)
        return [replace(row, prompt_ids=row.completion_ids)]

    truncated = StreamingTrainee(copy.deepcopy(prm), WEIGHTS, tbptt_tokens=16)
    whole = StreamingTrainee(copy.deepcopy(prm), WEIGHTS, tbptt_tokens=WHOLE)
    assert peak_graph_bytes(truncated, longer(8)) <= 1.02 * peak_graph_bytes(truncated, longer(2))
    assert peak_graph_bytes(whole, longer(8)) > 3 * peak_graph_bytes(whole, longer(2))


def test_in_the_first_phase_the_trunk_alone_learns(prm: StreamingPRM, batch: list[Encoded]) -> None:
    model = copy.deepcopy(prm)
    trainee = StreamingTrainee(model, WEIGHTS, tbptt_tokens=WHOLE, lm_steps=3)
    trainee.backward(batch, step=2)
    judging = ("verifier", "head", "compare", "token_read")
    assert all((name.startswith(judging)) == (not grad.any()) for name, grad in gradients(model).items())
    trainee.backward(batch, step=3)
    assert all(grad.any() for grad in gradients(model).values())


def test_a_frozen_trunk_stays(prm: StreamingPRM, batch: list[Encoded]) -> None:
    model = copy.deepcopy(prm)
    freeze_trunk(model)
    StreamingTrainee(model, replace(WEIGHTS, lm=0.0), tbptt_tokens=3).backward(batch, step=0)
    assert set(gradients(model)) == {
        name for name, _ in model.named_parameters() if not name.startswith(("embedding", "trunk"))
    }


def test_a_fresh_verifier_keeps_the_trunk_and_nothing_else(prm: StreamingPRM) -> None:
    fresh = with_fresh_verifier(prm).state_dict()
    for name, tensor in prm.state_dict().items():
        in_trunk = name.startswith(("embedding", "trunk"))
        if in_trunk:
            assert fresh[name].equal(tensor), name
    assert not fresh["head.weight"].equal(prm.state_dict()["head.weight"])
    assert not fresh["verifier.mixer.in_proj.weight"].equal(prm.state_dict()["verifier.mixer.in_proj.weight"])
