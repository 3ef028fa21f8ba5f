"""State-space duality (Mamba-2, arXiv 2405.21060): a linear recurrence computed chunk by chunk with matrix products.

One op serves Mamba-2 and gated linear attention alike (C = queries, B = keys, x = gated values, a = log-gates). The
result does not depend on how a sequence is cut into calls. Ragged batches are exact: at padding set x = 0 and a = 0,
which leaves the state as it is. Where the tensors are decides what computes it: PyTorch on a CPU, mamba-ssm's kernels
on CUDA.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

SSD = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def ssd(x: Tensor, a: Tensor, B: Tensor, C: Tensor, S0: Tensor, chunk_len: int) -> tuple[Tensor, Tensor]:
    """S_t = exp(a_t) S_(t-1) + x_t B_t^T and y_t = S_t C_t, for every head; returns (y, S after the last token).

    x (batch, time, heads, head_dim); a (batch, time, heads), at most 0; B and C (batch, time, groups, state_dim), a
    group serving heads / groups consecutive heads; S0 and S1 (batch, heads, head_dim, state_dim). S0 is never written.

    On CUDA the kernels need mamba-ssm; without it, and where a gradient is wanted, PyTorch computes the same there.
    """
    if x.shape[1] == 0:
        return x, S0
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (x, a, B, C, S0))
    compute = _kernels() if x.is_cuda and not wants_gradient else ssd_torch
    return compute(x, a, B, C, S0, chunk_len)


@cache
def _kernels() -> SSD:
    """mamba-ssm's; PyTorch's where they can't be imported, which is said once."""
    try:
        from verifiers.ssd_cuda import ssd_cuda
    except ImportError as error:
        log.warning("verifier: mamba-ssm's kernels can't be used (%s): PyTorch computes the same, more slowly", error)
        return ssd_torch
    return ssd_cuda


def ssd_torch(x: Tensor, a: Tensor, B: Tensor, C: Tensor, S0: Tensor, chunk_len: int) -> tuple[Tensor, Tensor]:
    """`ssd` of at least one token in PyTorch, on any device; differentiable."""
    batch, length, heads, head_dim = x.shape
    groups, state_dim = B.shape[2:]
    chunk = min(chunk_len, length)
    padding = -length % chunk
    if padding:
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (x, B, C))
        a = F.pad(a, (0, 0, 0, padding))
    chunks, per_group = (length + padding) // chunk, heads // groups

    # Everything as (batch, chunks, groups, time in chunk, ...). Heads of a group share its B and C, so where these meet
    # the heads' own x and S, the heads are columns of one product: (heads per group * head_dim).
    x = x.view(batch, chunks, chunk, groups, per_group * head_dim).transpose(2, 3)
    a = a.view(batch, chunks, chunk, groups, per_group).transpose(2, 3)
    B = B.view(batch, chunks, chunk, groups, state_dim).transpose(2, 3)
    C = C.view(batch, chunks, chunk, groups, state_dim).transpose(2, 3)
    by_head = (*x.shape[:4], per_group, head_dim)
    decayed = a.cumsum(3)

    # 1. Within a chunk: attention with decay, (heads, time, time) from later to earlier.
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    log_decay = decayed.mT  # (..., heads, time)
    decay = (log_decay.unsqueeze(-1) - log_decay.unsqueeze(-2)).masked_fill(future, -torch.inf).exp()
    within = (decay * (C @ B.mT).unsqueeze(3)) @ x.view(by_head).transpose(3, 4)  # (..., heads, time, head_dim)

    # 2. What each chunk adds to the state, decayed to the chunk's end.
    to_end = (decayed[..., -1:, :] - decayed).exp()
    added = (x.view(by_head) * to_end.unsqueeze(-1)).flatten(4).mT @ B  # (..., heads * head_dim, state_dim)

    # 3. The recurrence over chunks: the state at the start of each.
    state = S0.view(batch, groups, per_group, head_dim, state_dim)
    whole = decayed[..., -1, :].exp()[..., None, None]
    starts = []
    for i in range(chunks):
        starts.append(state)
        state = torch.addcmul(added[:, i].view(state.shape), state, whole[:, i])

    # 4. What the earlier chunks contribute to each token.
    before = torch.stack(starts, 1) if chunks > 1 else S0.view(batch, 1, groups, per_group, head_dim, state_dim)
    carried = (C @ before.flatten(3, 4).mT).view(by_head) * decayed.exp().unsqueeze(-1)
    y = within.transpose(3, 4) + carried
    y = y.transpose(2, 3).reshape(batch, chunks * chunk, heads, head_dim)
    return y[:, :length], state.view(batch, heads, head_dim, state_dim)
