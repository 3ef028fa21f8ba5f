"""Facts about what may still be spent."""

from dataclasses import replace

import pytest

from orchestrator.core.account import Account, PlannedSequence
from orchestrator.core.flops import ModelShape
from orchestrator.core.ledger import Budget, Remaining

SHAPE = ModelShape(weights_per_token=100, head_weights=10, num_layers=1, attention_width=2)
PLANNED = PlannedSequence(shape=SHAPE, prefix=5, scored=True, unread=3, verifier_flops_per_token=7.0)


def test_what_is_held_is_left_to_nobody_and_what_was_not_used_goes_back() -> None:
    run = Account(Budget(policy_tokens=100))
    search = Account(Budget(candidates=2), parent=run)
    hold = search.hold({"policy_tokens": 60, "candidates": 1})
    assert (search.left("candidates"), search.left("policy_tokens"), run.left("policy_tokens")) == (1, 40, 40)
    assert search.fits({"policy_tokens": 40}) and not search.fits({"policy_tokens": 41})
    hold.use(policy_tokens=25, candidates=1)
    hold.close()
    hold.close()
    assert (search.left("candidates"), run.left("policy_tokens")) == (1, 75)


def test_a_search_counts_what_it_or_its_run_has_a_cap_on() -> None:
    search = Account(Budget(candidates=2), parent=Account(Budget(policy_tokens=100)))
    assert search.counted == {"candidates", "policy_tokens"} and search.capped
    hold = search.hold({"policy_tokens": 60, "flops": 1e9})
    hold.use(verifier_tokens=5, flops=2e9)
    search.spend(verifier_tokens=7, candidates=1)
    assert search.left("verifier_tokens") is None and search.left("flops") is None
    assert (search.left("candidates"), search.left("policy_tokens")) == (1, 40)
    assert not Account(Budget(seconds=1.0)).capped


def test_a_search_ends_with_the_first_of_its_own_end_and_its_runs() -> None:
    now = 0.0
    run = Account(Budget(seconds=10.0), clock=lambda: now)
    search = Account(Budget(seconds=30.0), parent=run, clock=lambda: now)
    assert search.seconds_left == 10.0
    search.end_within(4.0)
    now = 5.0
    assert (search.seconds_left, run.seconds_left) == (-1.0, 5.0)


def test_a_sequence_costs_its_tokens_and_the_reading_of_all_that_is_unread() -> None:
    flops = SHAPE.flops(new_tokens=5 + 4, context_tokens=0, logits=4)
    assert PLANNED.amounts(4) == {
        "policy_tokens": 4,
        "candidates": 1,
        "flops": flops + 7.0 * (3 + 4),
        "verifier_tokens": 3 + 4,
    }


@pytest.mark.parametrize("thought", [0, 1, 6, 9])
@pytest.mark.parametrize("discarded", [0, 2])
def test_a_sequence_whose_thinking_is_ended_costs_no_more_than_it_was_planned_for(thought: int, discarded: int) -> None:
    """Whatever it thinks, and whatever is sampled past that, nothing is cached for what goes on."""
    planned = replace(PLANNED, most_thinking=9, marker=2, scored=False)
    for replied in range(1, 12):
        first = SHAPE.sampling_flops(prefix=5, cached=0, sampled=thought + discarded)
        second = SHAPE.sampling_flops(prefix=5 + thought + 2, cached=0, sampled=replied)
        assert first + second <= planned.amounts(thought + discarded + replied)["flops"]


def test_the_marker_that_ends_the_thinking_is_read_and_not_sampled() -> None:
    planned = replace(PLANNED, most_thinking=9, marker=2)
    assert planned.amounts(4)["verifier_tokens"] == 3 + 2 + 4
    assert planned.amounts(4)["policy_tokens"] == 4
    assert planned.affordable(left(verifier_tokens=9), parts=1, index=0) == 4


@pytest.mark.parametrize("tokens", [0, 1, 9, 1000])
def test_flops_pay_for_the_tokens_that_cost_as_much_and_for_no_more(tokens: int) -> None:
    cost = PLANNED.amounts(tokens)["flops"]
    assert PLANNED.affordable(left(flops=cost), parts=1, index=0) == tokens
    assert PLANNED.affordable(left(flops=3 * cost), parts=3, index=2) == tokens
    assert PLANNED.affordable(left(flops=PLANNED.amounts(tokens + 1)["flops"] - 1), parts=1, index=0) == tokens


def test_the_tightest_cap_counts_and_the_first_parts_get_what_can_not_be_split() -> None:
    assert PLANNED.affordable(left(), parts=2, index=0) is None
    parts = [PLANNED.affordable(left(policy_tokens=11, verifier_tokens=50), parts=3, index=i) for i in range(3)]
    assert parts == [4, 4, 3]
    parts = [PLANNED.affordable(left(policy_tokens=99, verifier_tokens=20), parts=3, index=i) for i in range(3)]
    assert parts == [7 - 3, 7 - 3, 6 - 3]
    assert PLANNED.affordable(left(policy_tokens=-4), parts=1, index=0) == 0


def left(**caps: float) -> Remaining:
    kinds = ("policy_tokens", "verifier_tokens", "flops", "candidates", "seconds")
    return Remaining(**{kind: caps.get(kind) for kind in kinds})
