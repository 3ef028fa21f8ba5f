"""Run by test_ssd_cuda with TRITON_INTERPRET=1: prints how far mamba-ssm's kernels are from PyTorch, as JSON.

In a process of its own, because what a kernel is compiled for is settled when Triton is imported, and because
transformers must not find mamba-ssm. Its folder is the argument; its package's own imports, which need compiled
extensions, are skipped.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

package = ModuleType("mamba_ssm")
package.__path__ = [str(Path(sys.argv[1]) / "mamba_ssm")]
sys.modules["mamba_ssm"] = package
torch.cuda.device = lambda index: nullcontext()  # type: ignore[assignment, misc]

from verifiers import gated_linear_attention, mamba2  # noqa: E402
from verifiers.ssd import ssd, ssd_torch  # noqa: E402
from verifiers.ssd_cuda import ssd_cuda  # noqa: E402
from verifiers.streaming_prm import MIXERS, PRMConfig, StreamingPRM  # noqa: E402

HEADS, GROUPS, HEAD_DIM, STATE_DIM, CHUNK = 4, 2, 8, 6, 8


def furthest(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """The largest difference, relative to the wanted value where that exceeds 1."""
    return max(float(((g - w).abs() / w.abs().clamp(min=1)).max()) for g, w in zip(got, wanted, strict=True))


def op() -> float:
    """A ragged batch with a row of no tokens, from states that are not zero; some tokens forget nothing."""
    x, a = torch.randn(3, 13, HEADS, HEAD_DIM), -torch.rand(3, 13, HEADS)
    a[:, 3] = 0
    B, C = torch.randn(2, 3, 13, GROUPS, STATE_DIM)
    real = torch.arange(13) < torch.tensor([[13], [0], [5]])
    x, a = x * real[..., None, None], a * real[..., None]
    S0 = torch.randn(3, HEADS, HEAD_DIM, STATE_DIM)
    return furthest(ssd_cuda(x, a, B, C, S0, CHUNK), ssd_torch(x, a, B, C, S0, CHUNK))


@torch.no_grad()
def model(mixer: str) -> float:
    """A model that reads a ragged batch in two calls by the kernels, and at once by PyTorch."""
    config = PRMConfig(
        vocab_size=11,
        mixer=mixer,
        width=8,
        num_layers=1,
        mlp_width=8,
        inner=16,
        head_dim=8,
        state_dim=4,
        chunk_len=CHUNK,
    )
    prm = StreamingPRM(config).eval()
    for parameter in prm.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    ids, ends, first = torch.randint(11, (3, 17)), torch.tensor([17, 10, 0]), torch.tensor([7, 3, 0])
    whole = prm(ids, ends, prm.initial_state(3))
    mamba2.ssd = gated_linear_attention.ssd = ssd_cuda  # type: ignore[attr-defined]
    begun = prm(ids[:, :7], first, prm.initial_state(3))
    rest = torch.stack([row[start : start + 10] for row, start in zip(torch.cat([ids, ids], 1), first, strict=True)])
    done = prm(rest, ends - first, begun.state)
    mamba2.ssd = gated_linear_attention.ssd = ssd  # type: ignore[attr-defined]
    got, wanted = [done.state], [whole.state]
    for name in ("mean_logit", "lm_logits"):
        for row, (start, end) in enumerate(zip(first.tolist(), ends.tolist(), strict=True)):
            if end > start:
                got += [getattr(begun, name)[row, :start], getattr(done, name)[row, : end - start]]
                wanted += [getattr(whole, name)[row, :start], getattr(whole, name)[row, start:end]]
    return furthest(tuple(got), tuple(wanted))


torch.manual_seed(0)
with torch.no_grad():
    print(json.dumps({"op": op()} | {name: model(name) for name in MIXERS}))
