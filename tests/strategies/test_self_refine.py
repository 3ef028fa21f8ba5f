import asyncio

import pytest

from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Selection, Status
from strategies.self_refine import SelfRefine
from tests.fakes import ScriptedPolicy, ids, open_session, problem


class Conversing(ScriptedPolicy):
    """Reads all messages of a conversation, one after the other. Requests that end with `held` wait for the test."""

    held: str | None = None

    def __init__(self, script, **options) -> None:
        super().__init__(script, **options)
        self.let_go = asyncio.Event()
        self.asked_four = asyncio.Event()

    async def encode(self, problems):
        return [ids("".join(message.content for message in each.messages)) for each in problems]

    def generate(self, requests):
        writing = super().generate(requests)
        if self.held is not None and any(request.prefix_ids == ids(self.held) for request in requests):
            writing.gate = self.let_go
        if len(self.requests) == 4:
            self.asked_four.set()
        return writing


async def refine(strategy, script, *, context_length=10_000, **session_options):
    policy = Conversing(script, context_length=context_length)
    async with open_session(policy, **session_options) as session:
        result = await strategy.search(problem(), session)
    return result, policy, session


def texts(result):
    return [candidate.trajectory.text for candidate in result.candidates]


REVISED = {"Q:": ["Answer: 1"], "Q:Answer: 1R:": ["Answer: 2"], "Q:Answer: 2R:": ["so Answer: 2"]}


async def test_each_round_shows_the_last_answer_until_it_comes_twice():
    result, _, _ = await refine(SelfRefine(n=1, request="R:"), REVISED)
    assert texts(result) == ["Answer: 1", "Answer: 2", "so Answer: 2"]
    assert (result.chosen, result.answer, result.selection) == (2, "2", Selection.MAJORITY)
    assert result.detail == {"attempts": [3]}


async def test_an_answer_holds_when_it_is_equal_not_only_when_it_is_spelled_the_same():
    result, _, _ = await refine(
        SelfRefine(n=1, request="R:"), {"Q:": ["Answer: 1,000"], "R:": ["Answer: 1000", "Answer: 2"]}
    )
    assert texts(result) == ["Answer: 1,000", "Answer: 1000"]


async def test_a_chain_that_does_not_settle_ends_after_max_rounds():
    script = {"Q:": ["Answer: 1"], "R:": ["Answer: 2", "Answer: 3"]}
    result, _, _ = await refine(SelfRefine(n=1, max_rounds=4, request="R:"), script)
    assert (len(result.candidates), result.answer) == (5, "3")


async def test_only_the_last_answers_of_the_chains_vote():
    script = {"Q:": ["Answer: 1", "Answer: 1", "Answer: 3"], "1R:": ["Answer: 2"], "3R:": ["Answer: 3"]}
    result, _, _ = await refine(SelfRefine(n=3, max_rounds=1, request="R:"), script)
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["1", "2", "1", "2", "3", "3"]
    assert (result.chosen, result.answer) == (1, "2")


async def test_a_revision_without_an_answer_does_not_take_back_the_one_before():
    result, _, _ = await refine(SelfRefine(n=1, max_rounds=2, request="R:"), {"Q:": ["Answer: 1"], "R:": ["no idea"]})
    assert (texts(result), result.answer) == (["Answer: 1", "no idea", "no idea"], "1")


async def test_a_chain_ends_with_what_it_has_where_the_context_is_full():
    result, _, _ = await refine(SelfRefine(n=2, request="R:" * 10), REVISED, context_length=25)
    assert texts(result) == ["Answer: 1"] * 2
    assert result.answer == "1"


async def test_an_attempt_that_a_cap_cuts_is_not_revised():
    result, policy, _ = await refine(SelfRefine(n=1, request="R:"), REVISED, max_tokens=5)
    assert [candidate.trajectory.status for candidate in result.candidates] == [Status.TRUNCATED]
    assert len(policy.requests) == 1


async def test_every_attempt_has_all_of_max_tokens():
    result, policy, _ = await refine(SelfRefine(n=1, request="R:"), REVISED, max_tokens=13)
    assert len(result.candidates) == 3
    assert {request.max_tokens for request in policy.requests} == {13}


async def test_no_more_attempts_than_candidates_are_allowed():
    result, _, session = await refine(SelfRefine(n=2, request="R:"), REVISED, budget=Budget(candidates=3))
    assert len(result.candidates) == session.ledger.candidates == 3


async def test_chains_do_not_wait_for_each_other_and_the_order_changes_no_seed():
    script = {"Q:": ["Answer: 1", "Answer: 3"], "1R:": ["Answer: 1"], "3R:": ["Answer: 4"], "4R:": ["Answer: 4"]}

    async def seeds(held):
        policy = Conversing(script)
        policy.held = held
        async with open_session(policy) as session:
            search = asyncio.ensure_future(SelfRefine(n=2, request="R:").search(problem(), session))
            await policy.asked_four.wait()
            policy.let_go.set()
            await search
        return {(request.prefix_ids, request.seed) for request in policy.requests}

    first, second = await seeds("Q:Answer: 1R:"), await seeds("Q:Answer: 4R:")
    assert first == second and len(first) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "self_refine: n must be >= 1, got 0"),
        ({"max_rounds": 0}, "self_refine: max_rounds must be >= 1, got 0"),
        ({"request": ""}, "self_refine: request must not be empty"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        SelfRefine(**fields)
