import pytest

from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Message, Problem
from strategies.comparing import compared, most_preferred, place, question
from tests.fakes import ThinkingPolicy, ids, open_session, problem
from tests.strategies.searching import Judging, naming

SAMPLES = {"Q:": ["Answer: 1", "Answer: 2", "Answer: 3"]}


async def samples(session):
    return await session.rollout([await session.start(problem())], 3, scored=False)


def test_a_question_is_one_message_with_the_problem_and_the_solutions_in_order():
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="1 + 1?"))
    [message] = question(Problem(id="p", messages=messages), ["two\n", "three {problem}"]).messages
    assert message.role == "user"
    assert "system: Be brief.\n\nuser: 1 + 1?" in message.content
    assert "[Solution 0]\n\ntwo\n\n[Solution 1]\n\nthree {problem}\n\nWhich" in message.content


@pytest.mark.parametrize(
    ("judgment", "number"),
    [
        ("Judgment: [0]", 0),
        ("The first errs.\n\n**Judgment: [1]**.\n", 1),
        ("Judgment: [0]\nNo, better:\nJudgment: [2]", 2),
        ("Judgment: [3]", None),  # there are three, from 0
        ("Judgment: [-1]", None),
        ("Judgment: [IDX]", None),
        ("Judgment: 1", None),
        ("Judgment: [1] or [2]", None),
        ("Judgment: [1]\nThough I am not sure.", None),
        (f"Judgment: [{'9' * 5000}]", None),
        ("", None),
    ],
)
def test_a_judgment_is_the_number_on_the_last_line_and_anything_else_is_no_preference(judgment, number):
    assert place(judgment, 3) == number


@pytest.mark.parametrize(
    ("groups", "preferred", "chosen"),
    [
        ([0, 1, 1, 2], [3], 3),  # one preference outweighs all votes
        ([0, 1, 1, 2], [0, 3], 0),  # a tie of the preferences, and of the votes behind them
        ([0, 1, 1, 2], [0, 2], 2),  # a tie that the votes decide, for the one that was preferred
        ([0, 1, 1, 2], [1, 2, 0], 1),  # answers are preferred, not texts
        ([0, 1, 1, 2], [], 1),  # nothing but the votes
        ([None, 0], [], 1),
        ([None, None], [], 0),
        ([], [], None),
    ],
)
def test_the_answer_preferred_most_often_wins_and_the_candidates_break_ties(groups, preferred, chosen):
    assert most_preferred(groups, preferred) == chosen


async def test_line_ups_are_judged_side_by_side_with_seeds_that_depend_on_no_other():
    async def seeds(line_ups):
        policy = Judging(SAMPLES, naming("Answer: 2"))
        async with open_session(policy) as session:
            written = await samples(session)
            places = await compared([[written[index] for index in line_up] for line_up in line_ups], session)
        return places, [request.seed for request in policy.requests[3:]]

    together, seeds_together = await seeds([(0, 1), (1, 0), (0, 2), (0, 1)])
    assert together == [1, 0, None, 1]
    assert len(set(seeds_together)) == 4  # the same line-up is judged anew
    _, [alone] = await seeds([(1, 0)])
    assert alone == seeds_together[1]


async def test_only_what_does_not_fit_into_the_context_is_not_asked():
    script = {"Q:": ["Answer: 1", "Answer: " + "2" * 100, "Answer: 3"]}
    policy = Judging(script, lambda shown: "Judgment: [0]")
    policy.context_length = len(question(problem(), ["Answer: 1", "Answer: 3"]).text) + 50
    async with open_session(policy) as session:
        written = await samples(session)
        places = await compared([(written[0], written[1]), (written[0], written[2])], session)
    assert (places, len(policy.requests)) == ([None, 0], 4)


async def test_nothing_is_asked_where_the_budget_is_spent():
    policy = Judging(SAMPLES, naming("Answer: 2"))
    async with open_session(policy, budget=Budget(candidates=3)) as session:
        written = await samples(session)
        assert await compared([written], session) == [None]
    assert len(policy.requests) == session.ledger.candidates == 3


async def test_a_policy_that_thinks_is_shown_replies_and_only_its_reply_is_read():
    judging = "<think>\n\nJudgment: [0]</think>\n\nJudgment: [1]"
    policy = ThinkingPolicy({"Q:": ["<think>\n\nhm</think>\n\nAnswer: 1"], "[IDX]": [judging]})
    async with open_session(policy) as session:
        written = await samples(session)
        assert await compared([written[:2]], session) == [1]
    assert policy.requests[-1].prefix_ids == ids(question(problem(), ["Answer: 1"] * 2).text)
