"""Loss terms at step boundaries. Labels may be soft (shares of rollouts) and are NaN where nobody looked.

Terms are sums or one number per label. The trainer divides by a batch's counts, so that a batch that is read in pieces
has the gradients of the whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def boundary_loss(mean_logit: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against hard or soft labels, summed over the known ones. Both of one shape."""
    known = ~labels.isnan()
    return F.binary_cross_entropy_with_logits(mean_logit[known], labels[known], reduction="sum")


def evidential_loss(
    mean_logit: Tensor, concentration: Tensor, labels: Tensor, divergence_weight: float = 1.0
) -> Tensor:
    """Expected cross-entropy under the Beta, plus the divergence of misleading evidence from none (arXiv 1806.01768).

    The mean is taken as given: only the concentration learns from this. A soft label is that share of right ones. One
    loss per label; all (n,), all labels known.
    """
    mean = mean_logit.detach().sigmoid().clamp(1e-4, 1 - 1e-4)
    alpha, beta = mean * concentration, (1 - mean) * concentration
    if_right = _evidence(alpha, beta, concentration, divergence_weight)
    if_wrong = _evidence(beta, alpha, concentration, divergence_weight)
    return labels * if_right + (1 - labels) * if_wrong


def _evidence(for_truth: Tensor, against: Tensor, concentration: Tensor, divergence_weight: float) -> Tensor:
    misleading = against.clamp(min=1)
    expected = torch.digamma(concentration) - torch.digamma(for_truth)
    divergence = misleading.log() - (misleading - 1) / misleading  # KL(Beta(1, misleading) || Beta(1, 1))
    return expected + divergence_weight * divergence


def consistency_loss(mean_logit: Tensor, previous: Tensor, has_previous: Tensor) -> Tensor:
    """By how much the scores of boundaries (n,) exceed those of the boundary before them, summed.

    A prefix can't become right again. Of probabilities and not of their logarithms: a rise from .001 to .01 is of no
    consequence. `previous` (n,) are logits; where `has_previous` is False there is no boundary before.
    """
    rise = mean_logit[has_previous].sigmoid() - previous[has_previous].sigmoid()
    return F.relu(rise).sum()
