"""The Mamba-2 mixer (arXiv 2405.21060) in plain PyTorch, functional: states come in, new states go out.

Parameter names are those of transformers' `Mamba2Mixer`. Unlike it, a right-padded batch may be continued: every row's
states are those after its own last token, whatever stands in the padding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verifiers.mixer import Mixer
from verifiers.ssd import ssd


class Mamba2Mixer(Mixer):
    """(batch, time, width) to the same shape; one group of B and C, shared by all heads."""

    own_keys = False

    def __init__(self, width: int, inner: int, head_dim: int, state_dim: int, conv_len: int, chunk_len: int):
        super().__init__(width, inner, head_dim, state_dim, conv_len, chunk_len)
        dt = torch.exp(torch.rand(self.num_heads) * math.log(100.0) + math.log(1e-3))  # 0.001 to 0.1, log-uniform
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log = nn.Parameter(torch.log(torch.linspace(1, 16, self.num_heads)))
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(
        self, x: Tensor, lengths: Tensor, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output and new conv and SSM states after `lengths` (batch,) tokens of right-padded x; writes no input."""
        batch, length, _ = x.shape
        real = torch.arange(length, device=x.device) < lengths[:, None]
        z, conv_out, dt, conv_state = self.project(x, lengths, conv_state)
        values, B, C = conv_out.split([self.inner, self.state_dim, self.state_dim], -1)
        values = values.view(batch, length, self.num_heads, self.head_dim)
        dt = F.softplus(dt + self.dt_bias) * real[..., None]
        y, ssm_state = ssd(
            values * dt[..., None], -dt * self.A_log.exp(), B[:, :, None], C[:, :, None], ssm_state, self.chunk_len
        )
        y = (y + values * self.D[:, None]).reshape(batch, length, self.inner)
        out: Tensor = self.out_proj(self.norm(y * F.silu(z)))
        return out, conv_state, ssm_state
