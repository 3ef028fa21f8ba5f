"""The core op of `verifiers.ssd` by mamba-ssm's Triton kernels (arXiv 2405.21060), for tensors on CUDA; no gradients.

The three kernels of its chunk scan are called one by one. Its combined function wants inputs and decays that share a
factor dt, which no token has that is written but forgets nothing (x != 0, a = 0); here dt is 1 and the decays are ours.
"""

import torch
import torch.nn.functional as F
from mamba_ssm.ops.triton.ssd_chunk_scan import chunk_scan
from mamba_ssm.ops.triton.ssd_chunk_state import chunk_state
from mamba_ssm.ops.triton.ssd_state_passing import state_passing
from torch import Tensor
from triton import knobs


def ssd_cuda(x: Tensor, a: Tensor, B: Tensor, C: Tensor, S0: Tensor, chunk_len: int) -> tuple[Tensor, Tensor]:
    """`ssd` of at least one token."""
    length = x.shape[1]
    padding = -length % chunk_len
    if padding:
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (x, B, C))
        a = F.pad(a, (0, 0, 0, padding))
    decayed = a.unflatten(1, (-1, chunk_len)).permute(0, 3, 1, 2).cumsum(-1)  # (batch, heads, chunks, time in chunk)
    dt = torch.ones_like(decayed)
    with knobs.language.scope():
        knobs.language.fp32_default = "ieee"  # as torch's own products; Triton's default rounds to 10 bits (TF32)
        added = chunk_state(B, x, dt, decayed)  # (batch, chunks, heads, head_dim, state_dim)
        starts, end = state_passing(added.flatten(3), decayed[..., -1], S0.flatten(2))
        y = chunk_scan(B, C, x, dt, decayed, starts.view_as(added))
    return y[:, :length], end.view_as(S0)
