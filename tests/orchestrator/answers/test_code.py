"""Programs as answers: what is one, and which are equal. Nothing runs here."""

from orchestrator.answers import open_answers
from orchestrator.core.answers import AnswerFormat
from verifiers.code_reference import to_reference

PROGRAM = "```python\ndef f(x):\n    return x  # so\n```"


async def test_programs_are_equal_whatever_their_comments_and_layout():
    async with open_answers("code", AnswerFormat.parse("program")) as answers:
        other = "So:\n```python\ndef f( x ):\n\n    return (x)\n```\nDone."
        assert await answers.group([PROGRAM, other, PROGRAM.replace("return x", "return -x"), None]) == [0, 0, 1, None]
        assert await answers.group(["f(", "f(", "g("]) == [0, 0, 1]


async def test_no_answer_is_wrong_without_a_program_that_runs():
    async with open_answers("code", AnswerFormat.parse("program")) as answers:
        [none] = await answers.compare(to_reference("assert f(1) == 1", "tests", {}), [None])
    assert none.equal is False
