"""State-space duality (Mamba-2, arXiv 2405.21060): a linear recurrence computed chunk by chunk with matrix products.

One op serves Mamba-2 and gated linear attention alike (C = queries, B = keys, x = gated values, a = log-gates). The
result does not depend on how a sequence is cut into calls. Ragged batches are exact: at padding set x = 0 and a = 0,
which leaves the state as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd(x: Tensor, a: Tensor, B: Tensor, C: Tensor, S0: Tensor, chunk_len: int) -> tuple[Tensor, Tensor]:
    """S_t = exp(a_t) S_(t-1) + x_t B_t^T and y_t = S_t C_t, for every head; returns (y, S after the last token).

    x (batch, time, heads, head_dim); a (batch, time, heads), at most 0; B and C (batch, time, groups, state_dim), a
    group serving heads / groups consecutive heads; S0 and S1 (batch, heads, head_dim, state_dim). S0 is never written.
    """
    batch, length, heads, head_dim = x.shape
    groups, state_dim = B.shape[2:]
    chunk = min(chunk_len, length)
    if length == 0:
        return x, S0
    padding = -length % chunk
    if padding:
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (x, B, C))
        a = F.pad(a, (0, 0, 0, padding))
    chunks, per_group = (length + padding) // chunk, heads // groups

    # Everything as (batch, chunks, groups, [heads per group,] time in chunk, ...).
    x = x.view(batch, chunks, chunk, groups, per_group, head_dim).permute(0, 1, 3, 4, 2, 5)
    a = a.view(batch, chunks, chunk, groups, per_group).permute(0, 1, 3, 4, 2)
    B = B.view(batch, chunks, chunk, groups, state_dim).transpose(2, 3)
    C = C.view(batch, chunks, chunk, groups, state_dim).transpose(2, 3)
    decayed = a.cumsum(-1)

    # 1. Within a chunk: attention with decay, (time, time) from later to earlier.
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    decay = (decayed.unsqueeze(-1) - decayed.unsqueeze(-2)).masked_fill(future, -torch.inf).exp()
    y = (decay * (C @ B.mT).unsqueeze(3)) @ x

    # 2. What each chunk adds to the state, decayed to the chunk's end.
    to_end = (decayed[..., -1:] - decayed).exp()
    added = (x * to_end.unsqueeze(-1)).mT @ B.unsqueeze(3)

    # 3. The recurrence over chunks: the state at the start of each.
    state = S0.view(batch, groups, per_group, head_dim, state_dim)
    starts = []
    for i in range(chunks):
        starts.append(state)
        state = state * decayed[:, i, ..., -1].exp()[..., None, None] + added[:, i]

    # 4. What the earlier chunks contribute to each token.
    carried = C.unsqueeze(3) @ torch.stack(starts, 1).mT
    y = y + carried * decayed.exp().unsqueeze(-1)
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, head_dim)
    return y[:, :length], state.view(batch, heads, head_dim, state_dim)
