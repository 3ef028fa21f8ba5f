"""Gated linear attention (arXiv 2312.06635) with one data-dependent gate per head, functional like `verifiers.mamba2`.

With a gate per head, not per channel, it is the same recurrence as Mamba-2's: queries read, keys and values write, the
gate forgets. Every head has queries and keys of its own. As in Mamba-2 a short convolution comes first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verifiers.mixer import Mixer
from verifiers.ssd import ssd

_GATE_NORMALIZER = 16.0  # of the paper: gates begin close to 1


class GatedLinearAttention(Mixer):
    """(batch, time, width) to the same shape."""

    own_keys = True

    def __init__(
        self,
        width: int,
        inner: int,
        head_dim: int,
        state_dim: int,
        conv_len: int,
        chunk_len: int,
        norm_eps: float = 1e-5,
    ):
        """`inner` numbers of values, `state_dim` of keys per head."""
        super().__init__(width, inner, head_dim, state_dim, conv_len, chunk_len, num_groups=inner // head_dim)
        self.gate_bias = nn.Parameter(torch.zeros(self.num_heads))
        self.norm = nn.RMSNorm(head_dim, eps=norm_eps)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(
        self, x: Tensor, lengths: Tensor, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output and new conv and KV states after `lengths` (batch,) tokens of right-padded x; writes no input."""
        batch, length, _ = x.shape
        real = (torch.arange(length, device=x.device) < lengths[:, None])[..., None]
        z, conv_out, gate, conv_state = self.project(x, lengths, conv_state)
        keys_dim = self.num_heads * self.state_dim
        values, keys, queries = conv_out.split([self.inner, keys_dim, keys_dim], -1)
        values = values.view(batch, length, self.num_heads, self.head_dim) * real[..., None]
        keys, queries = (t.view(batch, length, self.num_heads, self.state_dim) for t in (keys, queries))
        log_gate = F.logsigmoid(gate + self.gate_bias) / _GATE_NORMALIZER * real
        y, ssm_state = ssd(values, log_gate, keys, queries * self.state_dim**-0.5, ssm_state, self.chunk_len)
        out: Tensor = self.out_proj(self.norm(y).reshape(batch, length, self.inner) * F.silu(z))
        return out, conv_state, ssm_state
