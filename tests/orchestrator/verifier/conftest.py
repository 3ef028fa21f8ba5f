"""A checkpoint of a tiny StreamingPRM with random weights, and its scores by one reading of the whole text."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from orchestrator.core.config import VerifierConfig
from orchestrator.core.nouns import Score
from verifiers.streaming_prm import PRMConfig, StreamingPRM, beta_std

Whole = Callable[[Sequence[int], Sequence[int]], list[Score]]


@pytest.fixture(scope="session")
def prm() -> StreamingPRM:
    torch.set_num_threads(1)  # the model is too small for more
    torch.manual_seed(0)
    config = PRMConfig(
        vocab_size=32, width=16, num_layers=1, mlp_width=16, inner=16, head_dim=8, state_dim=4, chunk_len=8
    )
    model = StreamingPRM(config).eval()
    with torch.no_grad():
        model.embedding.weight.normal_(std=1.0)
        model.token_read.weight.normal_(std=1.0)
        model.head.weight.mul_(4)
    return model


@pytest.fixture(scope="session")
def whole(prm: StreamingPRM) -> Whole:
    @torch.inference_mode()
    def read(token_ids: Sequence[int], boundaries: Sequence[int]) -> list[Score]:
        output = prm(torch.tensor([token_ids]), torch.tensor([len(token_ids)]), prm.initial_state(1))
        mean = output.mean_logit[0].sigmoid()
        std = beta_std(mean, output.concentration[0])
        return [Score(mean=float(mean[b - 1]), std=float(std[b - 1])) for b in boundaries]

    return read


@pytest.fixture(scope="session")
def checkpoint(prm: StreamingPRM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prm")
    prm.save_pretrained(folder)
    return folder


@pytest.fixture
def config(checkpoint: Path) -> VerifierConfig:
    return VerifierConfig(model=str(checkpoint), slots=64, host_slots=64, batch_tokens=512, start_timeout_s=120)
