"""Facts about the growth of memory that the soak looks for."""

import os
import sys
from itertools import count

import numpy as np
import psutil
import pytest

from experiments.bench import memory
from experiments.bench.memory import MemoryWatch, family, growth, held_by, role

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


def test_a_watch_sums_what_lives_all_along_and_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(processes: object) -> dict[int, int]:
        """A process that levels off at a quarter of the time, and one that then grows by half of itself; others come
        and go."""
        at = next(times)
        level = (40 if at < 100 else 100) * MIB
        grows = 100 * MIB + max(0, at - 100) * MIB // 6
        return {pid: level, parent: grows} | ({1: MIB} if at < 200 else {})

    this = psutil.Process()
    pid, parent, times = this.pid, this.ppid(), count()
    monkeypatch.setattr(memory, "held_by", held)
    monkeypatch.setattr(memory.time, "monotonic", count(step=10.0).__next__)
    watch = MemoryWatch([this, psutil.Process(parent), psutil.Process(1)])
    said = [watch.sample() for _ in range(401)]
    assert said[6] == "1.0 min: 141.0 MiB"
    assert watch.num_processes == {"before": 3, "after": 2, "all_along": 2}
    assert watch.total.mib == pytest.approx(100 + 150, abs=1)
    assert watch.ratios()["ratio"] == pytest.approx(250 / 200, abs=0.01)
    assert [each.mib_per_h > 1 for each in watch.by_process.values()] == [False, True]
