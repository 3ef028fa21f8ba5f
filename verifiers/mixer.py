"""What the mixers of state-space blocks have in common: sizes, projections in, a short convolution, two states."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mixer(nn.Module):
    """Owner of the weights before the recurrence."""

    own_keys: ClassVar[bool]  # whether each head has keys and queries (B and C) of its own; else groups share them

    def __init__(
        self, width: int, inner: int, head_dim: int, state_dim: int, conv_len: int, chunk_len: int, num_groups: int
    ):
        """`num_groups` sets of keys and queries, each for as many consecutive heads."""
        super().__init__()
        self.inner, self.head_dim, self.state_dim = inner, head_dim, state_dim
        self.num_heads, self.conv_len, self.chunk_len = inner // head_dim, conv_len, chunk_len
        self.num_groups, self.conv_channels = num_groups, inner + 2 * state_dim * num_groups
        self.in_proj = nn.Linear(width, inner + self.conv_channels + self.num_heads, bias=False)
        self.conv1d = nn.Conv1d(self.conv_channels, self.conv_channels, conv_len, groups=self.conv_channels)

    @property
    def conv_state_shape(self) -> tuple[int, int]:
        """Without the batch: the last inputs of the convolution, oldest first."""
        return self.conv_len - 1, self.conv_channels

    @property
    def ssm_state_shape(self) -> tuple[int, int, int]:
        """Without the batch: (heads, head_dim, state_dim)."""
        return self.num_heads, self.head_dim, self.state_dim

    def project(self, x: Tensor, lengths: Tensor, conv_state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of x (batch, time, width): the output gate, the convolved inputs, a number per head, the new conv state."""
        z, conv_in, per_head = self.in_proj(x).split([self.inner, self.conv_channels, self.num_heads], -1)
        conv_out, conv_state = self._convolve(conv_in, lengths, conv_state)
        return z, conv_out, per_head, conv_state

    def _convolve(self, x: Tensor, lengths: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Causal depthwise convolution with SiLU, and the last inputs of each row."""
        if x.shape[1] == 0:  # which a convolution refuses
            return x, state
        padded = torch.cat([state, x], 1)
        # as an image of one row, channels last as in memory: conv1d moves them, and is up to 10 times slower
        image, kernel = padded.mT.unsqueeze(2), self.conv1d.weight.unsqueeze(2)
        out = F.silu(F.conv2d(image, kernel, self.conv1d.bias, groups=self.conv_channels)).squeeze(2).mT
        last = lengths[:, None] + torch.arange(self.conv_len - 1, device=x.device)  # token t is at t + conv_len - 1
        return out, padded.gather(1, last[..., None].expand(-1, -1, x.shape[2]))
