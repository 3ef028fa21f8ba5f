"""The mixer equals transformers' Mamba2 where that is exact, and stays exact where that is not."""

import torch
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer as ReferenceMixer

from verifiers.mamba2 import Mamba2Mixer


def mixer() -> Mamba2Mixer:
    torch.manual_seed(0)
    return Mamba2Mixer(width=16, inner=32, head_dim=8, state_dim=12, conv_len=4, chunk_len=8).eval()


def test_outputs_equal_those_of_transformers() -> None:
    ours = mixer()
    config = Mamba2Config(
        hidden_size=16, expand=2, head_dim=8, num_heads=4, state_size=12, n_groups=1, conv_kernel=4, chunk_size=8,
        use_bias=False, use_conv_bias=True, layer_norm_epsilon=1e-5, rms_norm=True,
    )  # fmt: skip
    reference = ReferenceMixer(config, layer_idx=0).eval()
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, 21, 16)
    with torch.no_grad():
        wanted = reference(x)
        got, _, _ = ours(x, torch.tensor([21, 21]), *empty_state(ours, 2))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_each_row_of_a_ragged_batch_equals_itself_alone() -> None:
    ours = mixer()
    lengths = torch.tensor([7, 0, 11, 2])
    x = torch.randn(4, 11, 16)
    conv_state, ssm_state = (torch.randn_like(state) for state in empty_state(ours, 4))
    with torch.no_grad():
        y, new_conv, new_ssm = ours(x, lengths, conv_state, ssm_state)
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            alone = ours(x[one, :length], lengths[one], conv_state[one], ssm_state[one])
            for got, wanted in zip((y[one, :length], new_conv[one], new_ssm[one]), alone, strict=True):
                torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_input_states_are_not_written() -> None:
    ours = mixer()
    states = tuple(torch.randn_like(state) for state in empty_state(ours, 2))
    before = [state.clone() for state in states]
    ours(torch.randn(2, 5, 16), torch.tensor([5, 3]), *states)
    assert all(torch.equal(state, kept) for state, kept in zip(states, before, strict=True))


def empty_state(ours: Mamba2Mixer, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(batch, *ours.conv_state_shape), torch.zeros(batch, *ours.ssm_state_shape)
