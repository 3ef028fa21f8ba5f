"""Facts about the benchmark of the endpoint: what counts as saturation, and a whole run of two small levels."""

import pytest

from experiments.bench import serve
from experiments.bench.serve import Level, level_of


def level(requests_per_s: float, p50_s: float) -> Level:
    return Level(requests_per_s=requests_per_s, p50_s=p50_s, p99_s=2 * p50_s)


def test_saturation_is_the_most_that_a_repeat_reached_at_any_level() -> None:
    found = {
        ("vllm", 1): [level(10, 0.1), level(10, 0.1)],
        ("vllm", 8): [level(100, 0.2), level(50, 0.2)],
        ("greedy", 1): [level(8, 0.12), level(90, 0.14)],
        ("greedy", 8): [level(80, 0.2), level(40, 0.2)],
    }
    measured = serve._measured(found, [1, 8], 2)
    assert measured.ratio_min == pytest.approx(0.8) and measured.ratio_max == pytest.approx(1.8)
    p50 = measured.details["p50_ratio_at_first_level"]["greedy"]
    assert (p50["ratio_min"], p50["ratio_max"]) == (pytest.approx(1.2), pytest.approx(1.4))
    assert measured.details["levels"]["greedy"]["8"]["p99_s"]["median"] == pytest.approx(0.4)


def test_a_level_has_its_rate_and_its_percentiles() -> None:
    found = level_of([0.01 * n for n in range(1, 101)], wall_s=4.0)
    assert found.requests_per_s == 25
    assert found.p50_s == pytest.approx(0.505) and 0.98 < found.p99_s < 1.0


@pytest.mark.engines
@pytest.mark.timeout(1500)
async def test_both_servers_are_measured_in_one_run() -> None:
    said: list[str] = []
    measured = await serve.measure(repeats=1, on_repeat=said.append, levels=(1, 4))
    assert measured.ratio > 0 and len(said) == 6
    assert measured.details["levels"].keys() == {"vllm", "greedy", "best_of_n"}
