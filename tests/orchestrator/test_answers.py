import pytest

from orchestrator.answers import extract_answer, reference_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so Answer: 37", "37"),
        ("Answer: 1\n\nWait\n\nAnswer: 2", "2"),
        (r"thus \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\text{a {nested} one}}", r"\text{a {nested} one}"),
        (r"Answer: 3, or rather \boxed{4}", "4"),
        ("Answer: $1,234.00$.", "1234"),
        ("Answer: 12.50", "12.50"),
        ("Answer: (1,234)", "(1234)"),
        ("no answer here", None),
        (r"\boxed{never closed", None),
        ("Answer: $", None),
        ("", None),
    ],
)
def test_the_last_answer_in_the_text_is_found_and_normalised(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("72", "72"),
        ("It is <<1+1=2>>2.\n#### 1,002", "1002"),
        ("Answer: 3 apples.\n#### 3", "3"),
        (r"Then \boxed{\frac{4}{2}}.", r"\frac{4}{2}"),
        ("ham and eggs", "ham and eggs"),
        ("$", "$"),
    ],
)
def test_a_reference_is_what_follows_the_marks_or_the_answer_of_a_solution_or_the_whole(text, answer):
    assert reference_answer(text) == answer
