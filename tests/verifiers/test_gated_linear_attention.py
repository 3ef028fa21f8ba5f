"""The mixer equals the recurrence of the paper, written out token by token."""

import torch
import torch.nn.functional as F

from verifiers.gated_linear_attention import GatedLinearAttention


def mixer() -> GatedLinearAttention:
    torch.manual_seed(0)
    return GatedLinearAttention(width=16, inner=32, head_dim=8, state_dim=12, conv_len=4, chunk_len=8).eval()


def states(ours: GatedLinearAttention, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, *ours.conv_state_shape), torch.randn(batch, *ours.ssm_state_shape)


@torch.no_grad()
def token_by_token(
    ours: GatedLinearAttention, x: torch.Tensor, conv: torch.Tensor, kv: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One row: x (time, width), conv (conv_len - 1, channels), kv (heads, head_dim, state_dim)."""
    heads, outs = ours.num_heads, []
    for token in x:
        z, new, gate = ours.in_proj(token).split([ours.inner, ours.conv_channels, heads])
        window = torch.cat([conv, new[None]])
        mixed = F.silu((window.T * ours.conv1d.weight[:, 0]).sum(1) + ours.conv1d.bias)
        v, k, q = mixed.split([ours.inner, heads * ours.state_dim, heads * ours.state_dim])
        v, k, q = v.view(heads, -1), k.view(heads, -1), q.view(heads, -1)
        alpha = torch.sigmoid(gate + ours.gate_bias) ** (1 / 16)
        kv = alpha[:, None, None] * kv + v[:, :, None] * k[:, None, :]
        out = (kv * q[:, None, :]).sum(-1) / ours.state_dim**0.5
        outs.append(ours.out_proj(ours.norm(out).reshape(-1) * F.silu(z)))
        conv = window[1:]
    return torch.stack(outs), kv


def test_outputs_and_states_equal_the_recurrence() -> None:
    ours, x = mixer(), torch.randn(2, 21, 16)
    conv, kv = states(ours, 2)
    with torch.no_grad():
        y, _, new_kv = ours(x, torch.tensor([21, 21]), conv, kv)
    for row in range(2):
        wanted_y, wanted_kv = token_by_token(ours, x[row], conv[row], kv[row])
        torch.testing.assert_close(y[row], wanted_y, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(new_kv[row], wanted_kv, atol=1e-4, rtol=1e-4)


def test_each_row_of_a_ragged_batch_equals_itself_alone() -> None:
    ours, x, lengths = mixer(), torch.randn(4, 11, 16), torch.tensor([7, 0, 11, 2])
    conv, kv = states(ours, 4)
    with torch.no_grad():
        y, new_conv, new_kv = ours(x, lengths, conv, kv)
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            alone = ours(x[one, :length], lengths[one], conv[one], kv[one])
            for got, wanted in zip((y[one, :length], new_conv[one], new_kv[one]), alone, strict=True):
                torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
