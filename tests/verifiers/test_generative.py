"""Facts about how chains of a generative PRM are asked for and read."""

from dataclasses import replace

import pytest

from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Solution
from verifiers.generative import GenerativePRM, correct_steps
from verifiers.weighing import Abstention

SOLUTION = Solution(
    problem=Problem.from_prompt("p", "What is {solution} + 1?"),
    steps=("One is 1.\n\n", "Two is {problem}.\n\n", "So 3.", "Not asked."),
    asked=(0, 2),
)
GOOD = r"""Let's verify step by step:
Step 1: The number is read well, see \boxed{1}. The step is \boxed{correct}
Step 2: 1 + 1 = 2, so this holds. The step is \boxed{correct}

Step 3: The sum is 3. The step is \boxed{correct}
"""
WRONG_AT_2 = GOOD.replace(r"this holds. The step is \boxed{correct}", r"this fails. The step is \boxed{incorrect}")


def values(chain: str) -> tuple[float, ...]:
    [question] = GenerativePRM().questions(SOLUTION)
    return GenerativePRM().values(question, chain)


def test_the_prompt_shows_the_problem_and_the_steps_up_to_the_last_asked_one() -> None:
    [question] = GenerativePRM().questions(SOLUTION)
    shown = "[Math Problem]\n\nWhat is {solution} + 1?\n\n[Solution]\n\n"
    assert shown + "Step 1: One is 1.\nStep 2: Two is {problem}.\nStep 3: So 3.\n\nReview" in question.prompt
    assert r"Step n: <critique> The step is \boxed{correct/incorrect}" in question.prompt
    assert "Not asked" not in question.prompt
    assert (question.asked, question.num_steps) == ((0, 2), 3)


def test_the_prompt_of_a_conversation_names_who_spoke() -> None:
    said = (Message(role="user", content="Hi"), Message(role="assistant", content="Yes?"))
    solution = replace(SOLUTION, problem=Problem(id="p", messages=said))
    assert "user: Hi\n\nassistant: Yes?" in GenerativePRM().questions(solution)[0].prompt


def test_one_chain_judges_every_asked_step() -> None:
    assert values(GOOD) == (1.0, 1.0)
    assert values(WRONG_AT_2) == (1.0, 0.0)
    assert values(GOOD.replace("correct", "incorrect")) == (0.0, 0.0)


def test_a_chain_may_stop_at_the_first_fault_and_what_follows_it_is_not_read() -> None:
    assert correct_steps(WRONG_AT_2.partition("Step 3")[0], 3) == 1
    assert correct_steps(WRONG_AT_2 + r"Step 9: \boxed{correct} \boxed{incorrect}", 3) == 1


@pytest.mark.parametrize(
    "heading", ["Step 2:", "**Step 2:**", "**Step 2**:", "### Step 2:", "  Step 2: "], ids=lambda heading: heading
)
def test_headings_may_be_marked_up(heading: str) -> None:
    assert correct_steps(WRONG_AT_2.replace("Step 2:", heading), 3) == 1


def test_verdicts_may_be_set_as_text() -> None:
    assert correct_steps(GOOD.replace("{correct}", r"{\text{correct}}"), 3) == 3


def test_verdicts_on_steps_that_are_not_there_are_left_out() -> None:
    assert correct_steps(GOOD, 2) == 2
    assert correct_steps(GOOD + r"Step 4: Missing. The step is \boxed{incorrect}", 3) == 3


def test_after_thinking_only_the_answer_is_read_unless_it_has_no_verdicts() -> None:
    assert correct_steps(f"<think>Step 1: hm \\boxed{{incorrect}}</think>{GOOD}", 3) == 3
    assert correct_steps(f"<think>{WRONG_AT_2}</think>\nIs the solution correct? No", 3) == 1


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ("", "got verdicts for 0 of 3 steps"),
        ("The solution looks right to me.", "got verdicts for 0 of 3 steps"),
        ("1 0 1", "got verdicts for 0 of 3 steps"),
        (r"All steps are \boxed{correct}", "got verdicts for 0 of 3 steps"),
        (GOOD.partition("Step 3")[0], "got verdicts for 2 of 3 steps"),
        (GOOD.replace(r"\boxed{correct}", "correct"), "got no verdict for step 1"),
        (GOOD.replace(r"holds. The step is \boxed{correct}", "holds."), "got no verdict for step 2"),
        (GOOD.replace(r"\boxed{correct}", r"\boxed{correct/incorrect}"), "got no verdict for step 1"),
        (GOOD.replace(r"\boxed{correct}", r"\boxed{maybe}", 1), "got no verdict for step 1"),
        (GOOD.replace("Step 2", "Step 3"), "got step 3 where step 2 was wanted"),
        (GOOD.replace("Step 1", "Step 0"), "got step 0 where step 1 was wanted"),
        (GOOD + r"No, wait: it is \boxed{incorrect}", "got both verdicts for step 3"),
    ],
)
def test_a_chain_that_does_not_parse_abstains_and_says_why(chain: str, reason: str) -> None:
    with pytest.raises(Abstention, match=reason):
        correct_steps(chain, 3)


def test_a_chain_that_was_cut_off_is_read_only_when_nothing_is_missing() -> None:
    whole = GOOD.rstrip()
    read = []
    for end in range(len(whole) + 1):
        try:
            read.append(correct_steps(whole[:end], 3))
        except Abstention:
            continue
    assert read == [3]
