from dataclasses import replace

import pytest
import torch

from experiments.bench import verifier
from experiments.bench.verifier import CachedTransformer, measure


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(verifier, "PREFIXES", (64, 96))
    monkeypatch.setattr(verifier, "AT", 96)
    monkeypatch.setattr(verifier, "BATCHES", (1, 2))
    small = {"width": 64, "num_layers": 2, "inner": 64, "head_dim": 32, "state_dim": 16, "vocab_size": 64}
    monkeypatch.setattr(verifier, "LARGE", replace(verifier.LARGE, **small))


def test_the_transformer_reads_from_its_cache_what_it_would_read_without():
    torch.manual_seed(0)
    transformer = CachedTransformer(500_000, width=128, vocab_size=81, prefixes=(64, 96))
    for length in (64, 96, 64):
        assert transformer.score(length) == pytest.approx(transformer.score_of_whole(length), abs=1e-5)


async def test_every_prefix_is_measured_all_three_ways():
    measured = await measure(repeats=1, on_repeat=lambda _: None)
    times = measured.details["ms_per_step"]
    assert {name: sorted(by_prefix) for name, by_prefix in times.items()} == {name: [64, 96] for name in times}
    again, carried = times["prefix again"][96]["median"], times["carried state"][96]["median"]
    assert measured.ratio == pytest.approx(again / carried)
    ours, theirs = measured.details["parameters"].values()
    assert theirs == pytest.approx(ours, rel=0.1)
    assert measured.details["bytes_per_trajectory"]["carried state"] == 412_672
    large = measured.details["large"]
    assert large["ms_per_step"].keys() == times.keys()
    assert large["bytes_per_trajectory"]["carried state"] == 4 * (3 * (3 * 96 + 2 * 32 * 16) + 64)
