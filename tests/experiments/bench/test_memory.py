"""Facts about the growth of memory that the soak looks for."""

import os
import sys

import numpy as np
import psutil
import pytest

from experiments.bench.memory import family, growth, held_by, role

MIB = 2**20
SECONDS = [10.0 * sample for sample in range(135)]  # of half an hour, after the warm-up


def held(mib_per_h: float, seed: int) -> list[float]:
    """Samples of 500 MiB that grow, with noise that lasts for a minute."""
    noise = np.convolve(np.random.default_rng(seed).normal(0, 1, len(SECONDS) + 5), np.ones(6) / 6, "valid")
    return [(500 + mib_per_h * at / 3600 + each) * MIB for at, each in zip(SECONDS, noise, strict=True)]


def test_what_grows_is_found_and_how_fast() -> None:
    found = growth(SECONDS, held(12.0, seed=0))
    assert found.least < 12.0 < found.most
    assert found.least > 6.0
    assert found.mib == pytest.approx(500 + 12.0 * SECONDS[-1] / 3600, abs=1)


def test_the_interval_of_what_does_not_grow_holds_zero_nearly_always() -> None:
    found = [growth(SECONDS, held(0.0, seed)) for seed in range(20)]
    assert sum(each.least <= 0 <= each.most for each in found) >= 16


def test_a_step_up_is_no_flat_line() -> None:
    steps = [(500 if at < 700 else 600) * MIB for at in SECONDS]
    assert growth(SECONDS, steps).least > 0


def test_a_process_that_has_ended_is_left_out() -> None:
    this = psutil.Process()
    assert this in family(os.getpid())
    ended = psutil.Popen([sys.executable, "-c", ""])
    ended.wait()
    found = held_by([this, ended])
    assert list(found) == [this.pid] and found[this.pid] > MIB
    assert role(this)
