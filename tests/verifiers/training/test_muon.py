"""Muon's updates are near-orthogonal, and it leaves alone what had no gradient."""

import torch
from torch import nn

from verifiers.training.muon import Muon, orthogonalise


def test_singular_values_come_near_one() -> None:
    matrices = torch.randn(3, 24, 64, generator=torch.Generator().manual_seed(0))
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(batch))
        assert values.min() > 0.5 and values.max() < 1.5


def test_parameters_without_gradient_stay() -> None:
    used, unused = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
    before = used.detach().clone(), unused.detach().clone()
    optimizer = Muon([used, unused], lr=0.1)
    used.sum().backward()
    optimizer.step()
    assert not torch.equal(used, before[0]) and torch.equal(unused, before[1])
