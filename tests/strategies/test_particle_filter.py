import math
from collections import Counter

import pytest

from strategies.particle_filter import ParticleFilter, effective_size, softmax_of_logits, systematic
from tests.fakes import text_of
from tests.strategies.searching import belief, run


def test_weights_are_the_odds_of_the_scores():
    # odds 1, 3, 9
    assert softmax_of_logits([0.5, 0.75, 0.9], 1.0) == pytest.approx([1 / 13, 3 / 13, 9 / 13])


def test_temperature_flattens_and_sharpens_the_weights():
    assert softmax_of_logits([0.5, 0.9], 2.0) == pytest.approx([1 / 4, 3 / 4])  # square roots of the odds
    assert softmax_of_logits([0.5, 0.9], 1e-9) == pytest.approx([0.0, 1.0])


def test_certain_scores_have_finite_weights():
    assert softmax_of_logits([1.0, 1.0, 0.0], 1.0) == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)


def test_a_particle_without_a_score_weighs_nothing_unless_none_has_one():
    assert softmax_of_logits([-math.inf, 0.0], 1.0) == [0.0, 1.0]
    assert softmax_of_logits([-math.inf, -math.inf], 1.0) == [0.5, 0.5]


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.999])
def test_each_particle_is_copied_the_expected_number_of_times_up_to_rounding(offset):
    weights = [0.5, 0.3, 0.0, 0.125, 0.075]
    copies = Counter(systematic(weights, 8, offset))
    assert copies.total() == 8
    for index, weight in enumerate(weights):
        assert math.floor(8 * weight) <= copies[index] <= math.ceil(8 * weight)


def test_equal_weights_copy_each_particle_once():
    assert systematic([1 / 6] * 6, 6, 0.5) == list(range(6))


def test_the_effective_size_counts_the_particles_that_carry_the_weight():
    assert effective_size([0.25] * 4) == pytest.approx(4)
    assert effective_size([0.5, 0.5, 0.0, 0.0]) == pytest.approx(2)


SCRIPT = {"Q:": ["a\n\n-", "b\n\n-"], "a\n\n": ["Answer: 1"], "b\n\n": ["Answer: 2"]}
HOPELESS_B = belief({"a\n\n": 0.999999, "b\n\n": 0.0, "1": 0.8, "2": 0.9})


async def test_the_copies_of_a_particle_are_children_of_one_prefix_in_one_call():
    result, policy = await run(ParticleFilter(n=4), SCRIPT, HOPELESS_B)
    assert [text_of(request.prefix_ids) for request in policy.requests[4:]] == ["Q:a\n\n"] * 4
    assert len({request.seed for request in policy.requests}) == 8
    assert [candidate.trajectory.path for candidate in result.candidates] == [(0, 0), (0, 1), (2, 0), (2, 1)]


async def test_particles_share_a_budget_evenly():
    _, policy = await run(ParticleFilter(n=4), SCRIPT, lambda text: HOPELESS_B(text[:5]), budget=40)
    # twelve tokens went into a, b, a, b
    assert [request.max_tokens for request in policy.requests[4:]] == [7] * 4


@pytest.mark.parametrize(("seed", "running"), [(2, 0), (0, 2)])
async def test_a_finished_particle_stays_with_its_score_and_is_one_candidate(seed, running):
    script = {"Q:": ["Answer: 1", "b\n\n-"], "b\n\n": ["Answer: 2"]}
    judge = belief({"1": 0.9, "b\n\n": 0.75, "2": 0.8})
    result, policy = await run(ParticleFilter(n=4, resample_seed=seed), script, judge)
    # 1.5, 0.5, 1.5 and 0.5 copies wanted: two finished ones twice each, or each of the four once
    assert len(policy.requests) == 4 + running
    paths = {0: [(0,), (2,)], 2: [(0,), (1, 0), (2,), (3, 0)]}[running]
    assert [candidate.trajectory.path for candidate in result.candidates] == paths
    assert (result.answer, result.score) == ("1", 0.9)


async def test_the_search_ends_when_only_finished_particles_are_copied():
    script = {"Q:": ["Answer: 1", "b\n\n-"]}
    result, policy = await run(ParticleFilter(n=4), script, belief({"1": 0.999999, "b\n\n": 0.0}))
    assert ({c.trajectory.answer for c in result.candidates}, len(policy.requests)) == ({"1"}, 4)


@pytest.mark.parametrize(("threshold", "resamplings"), [(1.0, 1), (0.6, 1), (0.4, 0), (0.0, 0)])
async def test_particles_are_resampled_only_below_the_effective_size(threshold, resamplings):
    result, _ = await run(ParticleFilter(n=4, ess_threshold=threshold), SCRIPT, HOPELESS_B)  # two of four count
    assert result.detail == {"steps": 2, "resamplings": resamplings}


async def test_a_threshold_of_one_resamples_even_equal_weights():
    result, _ = await run(ParticleFilter(n=4), SCRIPT, lambda text: 0.6)
    assert result.detail["resamplings"] == 1
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["1", "2", "1", "2"]


async def test_the_resample_seed_decides_who_is_copied():
    script = {"Q:": [f"{name}\n\n-" for name in "abcdefgh"], "\n\n": ["Answer: 1"]}
    judge = belief({f"{name}\n\n": 0.3 + 0.05 * i for i, name in enumerate("abcdefgh")} | {"1": 0.5})

    async def survivors(seed):
        result, _ = await run(ParticleFilter(n=8, resample_seed=seed), script, judge)
        return tuple(candidate.trajectory.path[0] for candidate in result.candidates)

    outcomes = [await survivors(seed) for seed in range(8)]
    assert outcomes == [await survivors(seed) for seed in range(8)]
    assert len(set(outcomes)) > 1


async def test_what_runs_after_max_steps_is_written_to_its_end():
    script = SCRIPT | {"a\n\n": ["c\n\nAnswer: 1"]}
    judge = belief({"a\n\n": 0.999999, "b\n\n": 0.0, "c\n\n": 0.5, "1": 0.8})
    result, policy = await run(ParticleFilter(n=4, max_steps=1), script, judge)
    assert [request.until_step for request in policy.requests] == [True] * 4 + [False] * 4
    assert {candidate.trajectory.answer for candidate in result.candidates} == {"1"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "particle_filter: n must be >= 1, got 0"),
        ({"weight_temperature": 0}, "particle_filter: weight_temperature must be > 0, got 0"),
        ({"ess_threshold": 1.5}, "particle_filter: ess_threshold must be between 0 and 1, got 1.5"),
        ({"max_steps": 0}, "particle_filter: max_steps must be >= 1, got 0"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        ParticleFilter(**fields)
