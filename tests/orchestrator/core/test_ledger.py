"""Facts about what a search has cost."""

import pytest

from orchestrator.core.ledger import Ledger, Tally

ONE = Ledger(prompt_tokens=3, policy_flops=1.5, candidates=1, peak_state_bytes=10)
OTHER = Ledger(prompt_tokens=4, engine_s=0.5, peak_state_bytes=7)


def test_ledgers_add_up_and_their_peak_is_the_higher_one() -> None:
    total = Ledger(prompt_tokens=7, policy_flops=1.5, candidates=1, engine_s=0.5, peak_state_bytes=10)
    assert ONE + OTHER == OTHER + ONE == total


def test_a_tally_is_the_ledger_that_it_began_with_and_the_costs_since() -> None:
    tally = Tally(ONE)
    tally.add({"prompt_tokens": 4, "engine_s": 0.25})
    tally.add({"engine_s": 0.25})
    tally.states_held(8)
    before = tally.ledger()
    tally.states_held(20)
    assert before == ONE + OTHER and tally.ledger().peak_state_bytes == 20


def test_a_cost_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError, match="tokens"):
        Tally().add({"tokens": 1})
