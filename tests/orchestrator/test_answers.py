import pytest

from orchestrator.answers import extract_answer


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
