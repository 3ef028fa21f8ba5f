"""The Mamba-2 mixer (arXiv 2405.21060) in plain PyTorch, functional: states come in, new states go out.

Parameter names are those of transformers' `Mamba2Mixer`. Unlike it, a right-padded batch may be continued: every row's
states are those after its own last token, whatever stands in the padding. With several groups of B and C the gated norm
is taken within each, as mamba-ssm trains such models (transformers' plain PyTorch takes it over all).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verifiers.mixer import Mixer
from verifiers.ssd import ssd


class GroupedRMSNorm(nn.Module):
    """Root-mean-square norm over each group of consecutive channels; a weight per channel."""

    def __init__(self, channels: int, num_groups: int, eps: float):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(-1, (self.num_groups, -1))
        return F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps).flatten(-2) * self.weight


class Mamba2Mixer(Mixer):
    """(batch, time, width) to the same shape."""

    own_keys = False

    def __init__(
        self,
        width: int,
        inner: int,
        head_dim: int,
        state_dim: int,
        conv_len: int,
        chunk_len: int,
        num_groups: int = 1,
        norm_eps: float = 1e-5,
    ):
        super().__init__(width, inner, head_dim, state_dim, conv_len, chunk_len, num_groups)
        dt = torch.exp(torch.rand(self.num_heads) * math.log(100.0) + math.log(1e-3))  # 0.001 to 0.1, log-uniform
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log = nn.Parameter(torch.log(torch.linspace(1, 16, self.num_heads)))
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = GroupedRMSNorm(inner, num_groups, norm_eps)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(
        self, x: Tensor, lengths: Tensor, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output and new conv and SSM states after `lengths` (batch,) tokens of right-padded x; writes no input."""
        batch, length, _ = x.shape
        real = torch.arange(length, device=x.device) < lengths[:, None]
        z, conv_out, dt, conv_state = self.project(x, lengths, conv_state)
        keys_dim = self.num_groups * self.state_dim
        values, B, C = conv_out.split([self.inner, keys_dim, keys_dim], -1)
        B, C = (t.view(batch, length, self.num_groups, self.state_dim) for t in (B, C))
        values = values.view(batch, length, self.num_heads, self.head_dim)
        dt = F.softplus(dt + self.dt_bias) * real[..., None]
        y, ssm_state = ssd(values * dt[..., None], -dt * self.A_log.exp(), B, C, ssm_state, self.chunk_len)
        y = (y + values * self.D[:, None]).reshape(batch, length, self.inner)
        out: Tensor = self.out_proj(self.norm(y * F.silu(z)))
        return out, conv_state, ssm_state
