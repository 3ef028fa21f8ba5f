import asyncio

import pytest

from strategies.dvts import DVTS
from tests.fakes import TableVerifier, open_session, problem
from tests.strategies.searching import OneHeldBack, belief, run

FOREST = {"Q:": ["a\n\n-", "b\n\n-", "c\n\n-", "d\n\n-"]}
FOREST |= {f"{name}\n\n": [f"Answer: {name}"] for name in "abcd"}
JUDGE = belief({"a\n\n": 0.9, "b\n\n": 0.8, "c\n\n": 0.2, "d\n\n": 0.3, "a": 0.4, "b": 0.99, "c": 0.6, "d": 0.7})


async def test_each_subtree_keeps_its_own_best_child():
    result, policy = await run(DVTS(n=4, beam_width=2), FOREST, JUDGE)
    # a beam of two would keep a and b; the second subtree goes on with d, the better of c and d
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["a", "a", "d", "d"]
    assert len(policy.requests) == 4 + 4


async def test_the_best_scored_of_all_subtrees_is_chosen():
    result, _ = await run(DVTS(n=4, beam_width=2), FOREST, JUDGE)
    assert (result.answer, result.score) == ("d", 0.7)


async def test_a_subtree_ends_with_its_kept_child_and_keeps_what_ended_beside_it():
    script = {"Q:": ["Answer: 1", "a\n\n-"], "a\n\n": ["Answer: 2"]}
    kept, policy = await run(DVTS(n=2, beam_width=2), script, belief({"1": 0.9, "a\n\n": 0.5}))
    assert ([c.trajectory.answer for c in kept.candidates], len(policy.requests)) == (["1"], 2)
    beside, _ = await run(DVTS(n=2, beam_width=2), script, belief({"1": 0.6, "a\n\n": 0.8, "2": 0.5}))
    assert [c.trajectory.answer for c in beside.candidates] == ["1", "2", "2"]
    assert beside.answer == "1"


async def test_what_runs_after_max_steps_is_written_to_its_end():
    result, policy = await run(DVTS(n=4, beam_width=2, max_steps=1), FOREST, JUDGE)
    assert [candidate.trajectory.answer for candidate in result.candidates] == ["a", "a", "d", "d"]
    assert [request.until_step for request in policy.requests] == [True] * 4 + [False] * 4


async def test_a_subtree_does_not_wait_for_another():
    policy, read = OneHeldBack(FOREST, "a\n\n"), asyncio.Event()

    def judge(text: str) -> float:
        if text.endswith("Answer: d"):
            read.set()
        return JUDGE(text)

    async with open_session(policy, TableVerifier(judge)) as session:
        search = asyncio.ensure_future(DVTS(n=4, beam_width=2).search(problem(), session))
        await read.wait()  # the second subtree is at its end while the first is still held back
        assert not search.done()
        policy.let_go.set()
        assert (await search).answer == "d"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "dvts: n must be >= 1, got 0"),
        ({"n": 4, "beam_width": 5}, "dvts: beam_width must be between 1 and n=4, got 5"),
        ({"n": 6, "beam_width": 4}, "dvts: n must be a multiple of beam_width=4, got 6"),
        ({"max_steps": 0}, "dvts: max_steps must be >= 1, got 0"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        DVTS(**fields)
