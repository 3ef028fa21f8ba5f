"""A tiny StreamingPRM with random weights, large enough for scores to differ."""

import pytest
import torch

from verifiers.streaming_prm import PRMConfig, StreamingPRM


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
