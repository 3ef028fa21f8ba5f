"""Muon (Jordan et al. 2024): momentum whose matrix updates are orthogonalised by a Newton-Schulz iteration, in fp32.

Matrices of one shape are orthogonalised together, which is what makes it fast on a CPU.
"""

from collections.abc import Callable, Iterable
from itertools import groupby

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """For weight matrices only; embeddings, norms and other vectors belong to AdamW (`split_optimizers`)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(sorted(params, key=lambda p: p.shape), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            learning = (p for p in group["params"] if p.grad is not None)
            for shape, same_shape in groupby(learning, key=lambda p: p.shape):
                params = list(same_shape)
                grads = [p.grad for p in params]
                buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                updates = orthogonalise(torch.stack(torch._foreach_lerp(grads, buffers, group["momentum"])))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(params, list(updates.unbind()), alpha=-group["lr"] * scale)


def orthogonalise(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """The nearest orthogonal matrices, roughly: (batch, rows, columns) with singular values pushed towards 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def split_optimizers(
    model: nn.Module,
    orthogonal: Callable[[str, nn.Parameter], bool],
    muon_lr: float,
    adam_lr: float,
    weight_decay: float = 0.0,
) -> list[torch.optim.Optimizer]:
    """Muon on the matrices that `orthogonal` names, AdamW (with the weight decay) on everything else."""
    matrices = [p for name, p in model.named_parameters() if orthogonal(name, p)]
    others = [p for name, p in model.named_parameters() if not orthogonal(name, p)]
    return [
        Muon(matrices, muon_lr),
        torch.optim.AdamW(others, adam_lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True),
    ]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a verifier's parameter maps hidden vectors to hidden vectors: no embedding, no head."""
    return parameter.ndim == 2 and not any(part in name for part in ("embed", "token_read", "head", "score"))
