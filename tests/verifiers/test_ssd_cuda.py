"""Which implementation computes the core op is the device's choice; mamba-ssm's kernels compute what PyTorch does.

The kernels run on the CPU in Triton's interpreter, from the sources that `make install` unpacks beside the environment.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from verifiers.ssd import _kernels, ssd, ssd_torch

KERNELS = Path(sys.prefix) / "kernels"


@pytest.mark.skipif(not (KERNELS / "mamba_ssm").is_dir(), reason=f"mamba-ssm's sources are not in {KERNELS}")
def test_the_kernels_compute_what_pytorch_does() -> None:
    """Both block types, shared and own keys, ragged and empty rows, states carried from call to call."""
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("kernels_on_cpu.py"), KERNELS],
        env={**os.environ, "TRITON_INTERPRET": "1", "MAMBA_DETERMINISTIC": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    differences = json.loads(run.stdout)
    assert len(differences) == 3 and max(differences.values()) <= 1e-4, differences


def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x, a, S0 = torch.randn(2, 5, 4, 8), -torch.rand(2, 5, 4), torch.randn(2, 4, 8, 6)
    return x, a, torch.randn(2, 5, 1, 6), torch.randn(2, 5, 1, 6), S0


def test_kernels_that_can_be_imported_are_not_used_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = ModuleType("verifiers.ssd_cuda")  # without a function: whoever asks for it fails
    monkeypatch.setitem(sys.modules, "verifiers.ssd_cuda", kernels)
    for got, wanted in zip(ssd(*inputs(), 8), ssd_torch(*inputs(), 8), strict=True):
        assert torch.equal(got, wanted)


def test_where_the_kernels_are_missing_pytorch_computes_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "verifiers.ssd_cuda", raising=False)
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    _kernels.cache_clear()
    with caplog.at_level(logging.WARNING, logger="verifiers.ssd"):
        assert [_kernels() for _ in range(3)] == [ssd_torch] * 3
    _kernels.cache_clear()
    assert len(caplog.records) == 1 and "mamba-ssm's kernels can't be used" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("groups", [1, 4])
def test_on_a_gpu_outputs_states_and_gradients_are_those_of_the_cpu(groups: int) -> None:
    pytest.importorskip("mamba_ssm")
    assert _kernels() is not ssd_torch
    torch.manual_seed(0)
    x, a, S0 = torch.randn(3, 100, 4, 32), -torch.rand(3, 100, 4), torch.randn(3, 4, 32, 64)
    arguments = (x, a, *torch.randn(2, 3, 100, groups, 64).unbind(), S0)
    wanted = ssd(*arguments, 32)
    for got, on_cpu in zip(ssd(*(t.cuda() for t in arguments), 32), wanted, strict=True):
        torch.testing.assert_close(got.cpu(), on_cpu, atol=1e-4, rtol=1e-4)
    gradients = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in arguments]
        sum(t.square().sum() for t in ssd(*leaves, 32)).backward()
        gradients.append([leaf.grad.cpu() for leaf in leaves if leaf.grad is not None])
    for got, on_cpu in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(got, on_cpu, atol=1e-2, rtol=1e-4)
