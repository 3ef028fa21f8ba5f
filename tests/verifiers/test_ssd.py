"""The chunked form equals the recurrence it stands for, however a sequence is cut or padded."""

import pytest
import torch
from torch import Tensor

from verifiers.ssd import ssd


def inputs(batch: int = 2, length: int = 37, groups: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    heads, head_dim, state_dim = 4, 8, 6

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return (
        draw(batch, length, heads, head_dim),
        -torch.rand(batch, length, heads, generator=generator),
        draw(batch, length, groups, state_dim),
        draw(batch, length, groups, state_dim),
        draw(batch, heads, head_dim, state_dim),
    )


def naive(x: Tensor, a: Tensor, B: Tensor, C: Tensor, S0: Tensor) -> tuple[Tensor, Tensor]:
    per_group = x.shape[2] // B.shape[2]
    B, C = B.repeat_interleave(per_group, 2), C.repeat_interleave(per_group, 2)
    state, outputs = S0, []
    for t in range(x.shape[1]):
        state = a[:, t].exp()[..., None, None] * state + x[:, t, :, :, None] * B[:, t, :, None, :]
        outputs.append((state @ C[:, t, :, :, None])[..., 0])
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("chunk_len", [1, 8, 37, 64])
def test_chunked_form_equals_the_recurrence(chunk_len: int, groups: int) -> None:
    arguments = inputs(groups=groups)
    y, state = ssd(*arguments, chunk_len)
    wanted_y, wanted_state = naive(*arguments)
    torch.testing.assert_close(y, wanted_y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, wanted_state, atol=1e-4, rtol=1e-4)


def test_cutting_a_sequence_changes_nothing() -> None:
    x, a, B, C, state = inputs()
    whole, end = ssd(x, a, B, C, state, 16)
    pieces = []
    for piece in zip(*(t.split([5, 1, 20, 11], 1) for t in (x, a, B, C)), strict=True):
        y, state = ssd(*piece, state, 16)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, end, atol=1e-4, rtol=1e-4)


def test_zero_input_and_zero_decay_leave_the_state() -> None:
    x, a, B, C, start = inputs(length=9)
    _, end = ssd(torch.zeros_like(x), torch.zeros_like(a), B, C, start, 4)
    torch.testing.assert_close(end, start)


def test_no_tokens_leave_the_state() -> None:
    x, a, B, C, start = inputs(length=9)
    y, end = ssd(x[:, :0], a[:, :0], B[:, :0], C[:, :0], start, 4)
    assert y.shape == (2, 0, 4, 8) and end is start


def test_strong_decay_does_not_overflow() -> None:
    x, a, B, C, start = inputs()
    x.requires_grad_()
    y, _ = ssd(x, 400 * a, B, C, start, 32)
    y.sum().backward()
    assert torch.isfinite(y).all() and x.grad is not None and torch.isfinite(x.grad).all()
