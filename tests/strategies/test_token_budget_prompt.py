import pytest

from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Message, Problem
from strategies.token_budget_prompt import TokenBudgetPrompt
from tests.fakes import ScriptedPolicy, open_session, text_of
from tests.strategies.searching import run

SCRIPT = {"tokens.": ["Answer: 1", "Answer: 2", "Answer: 2"]}


async def test_the_budget_stands_in_the_prompt():
    result, policy = await run(TokenBudgetPrompt(budget=40), SCRIPT)
    assert [text_of(request.prefix_ids) for request in policy.requests] == ["Q:\nUse fewer than 40 tokens."]
    assert result.answer == "1"


async def test_braces_other_than_the_budget_stay_as_they_are():
    _, policy = await run(TokenBudgetPrompt(budget=7, template=r"\boxed{x} in {budget}"), {"7": ["Answer: 1"]})
    assert text_of(policy.requests[0].prefix_ids) == "Q:\n\\boxed{x} in 7"


async def test_only_the_last_user_message_is_rewritten_and_the_problem_keeps_its_id():
    messages = [("system", "S"), ("user", "first"), ("assistant", "A"), ("user", "second"), ("assistant", "B")]
    asked = Problem(id="p7", messages=tuple(Message(role=role, content=content) for role, content in messages))
    async with open_session(ScriptedPolicy({"B": ["Answer: 1"]})) as session:
        result = await TokenBudgetPrompt(budget=5).search(asked, session)
    written = result.candidates[0].trajectory.problem
    assert written.id == "p7"
    assert [m.content for m in written.messages] == ["S", "first", "A", "second\nUse fewer than 5 tokens.", "B"]
    assert asked.messages[3].content == "second"


async def test_a_problem_without_a_user_message_is_an_error_of_that_problem():
    asked = Problem(id="p7", messages=(Message(role="system", content="S"),))
    async with open_session(ScriptedPolicy({"S": ["-"]})) as session:
        with pytest.raises(ProblemError, match="problem p7: token_budget_prompt wants a user message, got system"):
            await TokenBudgetPrompt().search(asked, session)


async def test_n_samples_vote():
    result, _ = await run(TokenBudgetPrompt(n=3), SCRIPT)
    assert (result.answer, result.score, len(result.candidates)) == ("2", None, 3)


async def test_a_soft_budget_cuts_nothing():
    result, policy = await run(TokenBudgetPrompt(budget=3), SCRIPT)
    assert (result.answer, result.detail, len(policy.requests)) == ("1", {"cut": 0}, 1)


async def test_a_hard_budget_cuts_and_forces_the_answer():
    script = {"tokens.": ["abcdefgh"], "Answer:": [" 9"]}
    result, policy = await run(TokenBudgetPrompt(budget=3, hard=True), script)
    assert result.candidates[0].trajectory.text == "abcAnswer: 9"
    assert (result.answer, result.detail) == ("9", {"cut": 1})
    assert policy.requests[0].max_tokens == 3


async def test_an_answer_that_is_being_written_at_the_cut_is_not_asked_for_twice():
    script = {"tokens.": ["Answer: 12"], "Answer: ": ["12"]}
    result, _ = await run(TokenBudgetPrompt(budget=8, hard=True), script)
    assert result.candidates[0].trajectory.text == "Answer: 12"


async def test_samples_keep_their_order_whether_cut_or_not():
    script = {"tokens.": ["a", "abcdefgh", "b"], "Answer:": [" 9"]}
    result, _ = await run(TokenBudgetPrompt(budget=3, hard=True, n=3), script)
    assert [candidate.trajectory.text for candidate in result.candidates] == ["a", "abcAnswer: 9", "b"]
    assert result.detail == {"cut": 1}


@pytest.mark.parametrize("budget", [1, 5, 12])
async def test_the_search_ends_cleanly_when_its_budget_of_tokens_is_used_up(budget):
    script = {"tokens.": ["abcdefgh"], "Answer:": [" 9"]}
    result, _ = await run(TokenBudgetPrompt(budget=3, hard=True, n=3), script, budget=budget)
    assert len(result.candidates) == 3
    assert all(candidate.trajectory.status.done for candidate in result.candidates)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": 0}, "token_budget_prompt: budget must be >= 1, got 0"),
        ({"template": "Be brief."}, r"token_budget_prompt: template must contain \{budget\}, got 'Be brief.'"),
        ({"end_marker": ""}, "token_budget_prompt: end_marker must not be empty, got ''"),
        ({"n": 0}, "token_budget_prompt: n must be >= 1, got 0"),
    ],
)
def test_bad_fields_are_errors_that_name_the_field_and_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        TokenBudgetPrompt(**fields)
