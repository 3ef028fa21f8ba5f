"""Loss terms: soft labels interpolate hard ones, unlabelled steps teach nothing, only rises are inconsistent."""

import torch

from verifiers.training.losses import boundary_loss, consistency_loss, evidential_loss


def test_a_soft_label_is_a_share_of_hard_ones() -> None:
    logits, concentration = torch.tensor([0.7, -2.0]), torch.tensor([3.0, 9.0])
    soft = torch.full((2,), 0.25)
    for loss in (
        lambda labels: boundary_loss(logits, labels),
        lambda labels: evidential_loss(logits, concentration, labels).sum(),
    ):
        mixed = 0.25 * loss(torch.ones(2)) + 0.75 * loss(torch.zeros(2))
        torch.testing.assert_close(loss(soft), mixed)


def test_steps_without_a_label_teach_nothing() -> None:
    logits = torch.tensor([0.7, -2.0], requires_grad=True)
    boundary_loss(logits, torch.tensor([1.0, torch.nan])).backward()
    assert logits.grad is not None
    assert logits.grad[0] < 0
    assert logits.grad[1] == 0


def test_evidential_loss_teaches_the_concentration_alone() -> None:
    logit, concentration = torch.tensor([3.0, 3.0], requires_grad=True), torch.tensor([20.0, 20.0], requires_grad=True)
    evidential_loss(logit, concentration, torch.tensor([1.0, 0.0])).sum().backward()
    assert logit.grad is None and concentration.grad is not None
    assert concentration.grad[0] < 0 < concentration.grad[1]  # right and sure: more evidence; wrong and sure: less


def test_only_a_rise_is_inconsistent() -> None:
    logits = torch.tensor([0.0, 2.0, -2.0])
    before = torch.tensor([torch.nan, 0.0, 2.0])
    rise = torch.tensor(2.0).sigmoid() - 0.5
    torch.testing.assert_close(consistency_loss(logits, before, ~before.isnan()), rise)
