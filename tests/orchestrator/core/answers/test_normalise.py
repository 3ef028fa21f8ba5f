import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.answers import normalise


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (r"**\(\text{ 18 }\)**.", "18"),
        (r"\boldsymbol{120}", "120"),
        (r"$\$18$", r"\$18"),
        (r"1\,940", "1940"),
        (r"10,\!080", "10,080"),
        (r"1{,}234", "1234"),
        (r"{5}", "5"),
        ("18 ✅", "18"),
        ("１８", "18"),
        ("١٨", "18"),
        ("१८", "18"),
        ("−5", "-5"),
        ("x<sup>2</sup>", "x^{2}"),
        ("5&nbsp;cm", "5 cm"),
        ("5\u00a0cm\r\n", "5 cm"),
        ("The total is **29**.", "The total is 29"),
        (r"\left\{ x+1 \right.", "x+1"),
        ("", None),
        ("$", None),
        ("**", None),
    ],
)
def test_what_decorates_an_answer_goes(written, plain):
    assert normalise(written) == plain


@pytest.mark.parametrize(
    "answer",
    [
        "(1,234)", "2,125,128", r"(2,12) \cup (12,102)", r"\{1,234\}", "1,234", r"\$18 per day", r"18\%", "36°", "½",
        "3 1/2", "1e3", "10 dollars", "x = 5", "2**3**2", r"3{,}5", "1, 2, ...", r"\{1\}", "{1}{2}", "f(x)", "(1,2]",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "a_{1}", "5!", "|x|",
    ],
)  # fmt: skip
def test_what_means_something_stays(answer):
    assert normalise(answer) == answer


@given(st.text(alphabet="\\{}$()[]*_`\"', .123xyfrac!<>", max_size=40))
def test_a_plain_answer_is_plain(text):
    plain = normalise(text)
    assert plain is None or normalise(normalise(plain) or "") == normalise(plain)
