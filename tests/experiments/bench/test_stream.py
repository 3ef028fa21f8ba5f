import pytest

from experiments.bench import stream


async def test_a_long_trajectory_is_timed_by_tenths(monkeypatch):
    monkeypatch.setattr(stream, "NUM_TOKENS", 20 * stream.STEP)
    measured = await stream.measure(repeats=2, on_repeat=lambda _: None)
    tenths = measured.details["us_per_token_by_tenth"]
    assert len(tenths) == stream.SEGMENTS and min(tenths) > 0
    assert measured.ratio_min <= measured.ratio <= measured.ratio_max
    assert measured.details["state_bytes"] == pytest.approx(412_672)
