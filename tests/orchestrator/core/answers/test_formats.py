import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.answers import AnswerFormat, normalise, reference_answer

AUTO = AnswerFormat.parse(None)
GSM8K = AnswerFormat.parse("gsm8k")
DATA = Path(__file__).resolve().parents[5] / "shared" / "data"

ANSWERS = [
    *("18", "-5", "3.5", "1,234", "0", "50\\%", "90^\\circ", "3 1/2", "1e3"),
    *("\\frac{1}{2}", "\\frac{1}{\\frac{2}{3}}", "2\\sqrt{2}", "x+1", "x^2 + 2x + 1"),
    *("(1, 2)", "\\{1, 2\\}", "2, 7", "\\left(-\\infty, 3\\right]", "(2,12) \\cup (12,102)"),
    *("E", "\\text{Evelyn}", "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}"),
]

FORMATS = {
    "boxes": (
        r"So \boxed{@}.¦So $\boxed{@}$.¦So \[ \boxed{@} \]¦So \(\boxed{@}\)¦So \fbox{@}¦So $\boxed {@}$¦"
        r"So \boxed{\boxed{@}}¦So \boxed{$@$}¦So $\boxed{\displaystyle @}$¦So $\boxed{\left\{ @ \right.}$¦"
        r"So $\boxed{\mathbf{@}}$¦First \boxed{3}. No, \boxed{@}¦Thus $x = \boxed{@}$."
    ),
    "marks": "#### @¦She sells.\n#### @¦#### @.¦#### **@**¦#### $@$",
    "lines": (
        "Answer: @¦Answer: @.¦answer: @¦ANSWER: @¦Answer : @¦Answer = @¦answer=@¦Answer is: @¦Ans: @¦"
        "Ans. @¦Answer -> @¦"
        "Answer => @¦Answer → @¦Answer - @¦The answer: @¦My answer: @¦A: @¦A:\n@¦Final Answer: @¦"
        "Final answer: $@$¦"
        "Final result: @¦Answer:\n@¦Answer:\n\n@¦Answer:\n$$@$$¦Answer:\n\\[\n@\n\\]¦- Answer: @¦"
        "> Answer: @¦1. Answer: @"
    ),
    "markup": (
        "**Answer:** @¦**Answer**: @¦**Answer: @**¦**Answer:** **@**¦**Answer:**\n\n@¦"
        "**Answer**\n\n@¦*Answer:* @¦"
        "***Answer:*** @¦_Answer_: @¦__Answer:__ @¦# Answer\n\n@¦### Final Answer\n\n@¦### Answer: @¦"
        "### **Answer:** @¦"
        "\\textbf{Answer:} @¦\\textbf{Answer: } $@$¦\\textbf{Answer}: $@$¦$\\text{Answer: } @$¦"
        "\\section*{Answer}\n@¦"
        "**Final Answer:** \\(@\\)¦**Final Answer**\n\\[\n@\n\\]¦Answer: `@`¦Answer: <b>@</b>¦<p>Answer: @</p>¦"
        '<b>Answer:</b> @<br>¦<answer>@</answer>¦<answer>\n@\n</answer>¦Answer: "@"¦Answer: @ ✅¦✅ **Final Answer: @**'
    ),
    "sentences": (
        "The answer is @.¦The answer is @¦The answer is: @.¦The answer is $@$.¦"
        "The answer is \\(@\\).¦So the answer is: \\[ @ \\]¦"
        "The final answer is @.¦The correct answer is **@**.¦"
        "Therefore, the answer is @, as required.¦The answer equals @.¦"
        "The answer to the question is @.¦The answer (in dollars) is @.¦The answer is @ because of that.¦"
        "The answer is\n\n$$@$$¦The answer should be @.¦"
        "Final Answer: The final answer is $@$. I hope it is correct."
    ),
    "spaces": "Answer: @\r\n¦Answer:\r\n@\r\n¦Answer:\xa0@¦Answer:\u3000@¦Answer:\t@¦Answer: @\u200b¦"
    "Answer: @  \n\nDone!",
    "turns": "Answer: @<|im_end|>¦Answer: @</s>¦Answer: @<|eot_id|>\n<|start_header_id|>user¦Answer: @<end_of_turn>",
    "thinking": (
        r"<think>It is \boxed{99}.</think>\boxed{@}¦It is \boxed{99}.</think>\boxed{@}¦"
        r"<think>a</think><think>99</think>Answer: @¦"
        r"<thinking>\boxed{99}</thinking>Answer: @¦[THINK]\boxed{99}[/THINK]Answer: @¦"
        r"◁think▷\boxed{99}◁/think▷Answer: @¦"
        r"<think>a<think>\boxed{98}</think>\boxed{99}</think>Answer: @¦Answer: @<think>Answer: 99</think>"
    ),
    "languages": (
        "答案：@¦答案是@。¦答案为：$@$。¦最终答案：@¦**答案：** @¦故答案为：@¦答え：@¦答えは $@$ です。¦"
        "정답: @¦답은 $@$입니다.¦Ответ: @¦"
        "**Ответ:** @¦Відповідь: @¦Respuesta: @¦La respuesta es @.¦Réponse : @¦La réponse est @.¦"
        "Antwort: @¦Die Antwort ist @.¦"
        "Resposta: @¦Risposta: @¦Antwoord: @¦Odpowiedź: @¦Đáp án: @¦Cevap: @¦Jawaban: @¦Svar: @¦"
        "الجواب: @¦उत्तर: @¦"
        "คำตอบคือ @¦Απάντηση: @¦תשובה: @¦উত্তর: @¦پاسخ: @"
    ),
    "boxes that nothing displaces": (
        "So \\boxed{@}\n\nAnswer: see above¦So \\boxed{@}\n\nAnswer: as shown above.¦"
        "So \\boxed{@}\n\nAnswer: (given above)¦"
        "So \\boxed{@}\n\n**Answer:** the boxed expression above¦So \\boxed{@}\n\nAnswer:¦"
        "So \\boxed{@}. \\boxed{}¦"
        "So \\boxed{@}. \\boxed{?}¦So \\boxed{@}\n\nFinal answer: \\boxed{}¦"
        "So \\boxed{@}.\n\nI'm sure that the answer is correct."
    ),
}


@pytest.mark.parametrize(
    "template",
    [pytest.param(t, id=f"{kind}-{i}") for kind, all in FORMATS.items() for i, t in enumerate(all.split("¦"))],
)
def test_an_answer_comes_out_of_every_format_as_it_went_in(template):
    for answer in ANSWERS:
        assert AUTO.extract(template.replace("@", answer)) == normalise(answer), template


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 5. But wait, the answer is 7.", "7"),
        ("Answer: 18\n\nSo the answer is correct.", "18"),
        ("**The answer is:**\n\n- 18", "18"),
        ("\\boxed{18}. The answer is less than 20, as required.", "18"),
        ("\\boxed{18}\n\n**Answer Check:** The answer is divisible by 3.", "18"),
        ("The answer is \\boxed{18}. So the answer is in the range [0, 999].", "18"),
        ("The answer is 18, and the answer is positive.", "18"),
        ("The answer is 18. The answer is in dollars.", "18"),
        ("Answer: 18\n\nSo the final answer is as follows:\n\n18", "18"),
        ("\\boxed{18}\n```python\nanswer = 3 * 6\n```", "18"),
        ("So the answer is invalid.", "invalid"),
        ("The answer is Unknown", "Unknown"),
        ("Answer: Tom. I'm sure that the answer is right.", "Tom"),
        ("**Final answer**\n* 18", "18"),
        ("The answer is -18.", "-18"),
        ("I think the answer is 18, but it could be 8.", "18"),
        ("Answer: 18 (eighteen)", "18"),
        ("Answer: E (the last of them)", "E"),
        ("Answer: 5 (mod 7)", "5 (mod 7)"),
        ("Answer: $18.", "18"),
        ("Answer: 18**", "18"),
        ("Answer: 18`", "18"),
        ("Answer: 18\\]", "18"),
        ("Answer: 18}", "18"),
        ("Answer: 18</div>", "18"),
        ('{"thought": "x", "answer": "18"}', "18"),
        ('{"answer": 18, "confidence": 0.9}', "18"),
        ("Question: how many?\nAnswer: 18", "18"),
        (r"$x = \boxed{3}$, $y = \boxed{5}$, and $z = \boxed{7}$.", "3, 5, 7"),
        (r"\boxed{3}, \boxed{5}, \boxed{7}", "3, 5, 7"),
        (r"$\boxed{3}\text{ and }\boxed{5}$", "3, 5"),
        (r"\boxed{48}, or \boxed{48}", "48"),
        (r"\boxed{5}, which gives \boxed{10}", "10"),
        (r"\boxed{5}. So \boxed{10}.", "10"),
        ("\\boxed{5}\n\n\\boxed{10}", "10"),
        (r"\boxed 5", "5"),
        (r"$\boxed5$.", "5"),
        (r"$\boxed \frac{1}{2}$", r"\frac{1}{2}"),
        (r"the answer is \boxed{5", None),
        (r"So \boxed{4}. The answer is positive.", "4"),
        (r"So \boxed{4}." + "\n\nAnswer: 5", "5"),
        (r"So \boxed{\text{even}}." + "\n\nAnswer: 5", "5"),
        ("The answer is the sum of the two, which is 18.", "18"),
        ("The final answer is 50% of the price, i.e. 40.", "40"),
        ("The correct option is (B).", "(B)"),
        ("The answer is B because 42 is even.", "B"),
        ("The second option is cheaper. Answer: B", "B"),
        ("The result of the first step is 12. Then x is 15.", None),
        ("No final answer is given here", None),
        ("Let me see.", None),
        ("", None),
        ("Answer:", None),
        ("The answer is", None),
        (r"<think>\boxed{5}", None),
        ("<thinking>Answer: 5", None),
        (r"\boxed{7}<think>\boxed{5}", "7"),
        ("18", "18"),
        ("(B)", "(B)"),
        ("x^{2}+1", "x^{2}+1"),
        ("\x08oxed{5}", "5"),
    ],
)
def test_what_a_text_itself_calls_its_answer_is_found(text, answer):
    assert AUTO.extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("He sold 48/2 = 24 clips.\nHe sold 48+24 = 72 clips.\n#### 72", "72"),
        ("#### Step 1: add\n48 and 24 make 72.", "72"),
        ("#### 1. Add\nThat is 72", "72"),
        ("She has 5-3=2 eggs left", "2"),
        ("so 48-24", "24"),
        ("The total is $1,234.50.", "1,234.50"),
        ("Answer: Janet makes $18 every day at the market.", "18"),
        ("The answer is clear: she gets 12", "12"),
        ("no number", None),
    ],
)
def test_gsm8k_takes_what_is_stated_or_the_last_number(text, answer):
    assert GSM8K.extract(text) == answer


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("gsm8k_strict", "#### 5 and #### 6", "5"),
        ("gsm8k_strict", "#### 1,234.", "1,234"),
        ("gsm8k_strict", "#### $5", None),
        ("gsm8k_strict", r"\boxed{5}", None),
        ("gsm8k_flexible", "#### 5, or rather 6 eggs", "6"),
        ("gsm8k_flexible", "none", None),
        ("minerva", "Final Answer: The final answer is $[2,5)$. I hope it is correct. And $3$.", "[2,5)"),
        ("minerva", "Final Answer: The final answer is $3$. ", "3"),
        ("minerva", r"\boxed{3}", None),
        ("choice", "Choices:\n(A) 1\n(B) 2\nThe answer is clearly B", "B"),
        ("choice", "I choose C) since it fits", "C"),
        ("choice", "E: a polygenic risk score", "E"),
        ("choice", "**Final Answer:** C", "C"),
        ("choice", "ANSWER: C", "C"),
        ("choice", "答案是C", "C"),
        ("choice", "The answer is C because (A) is too small.", "C"),
        ("choice", "The correct answer is B, not (A).", "B"),
        ("choice", "Answer: B\n\nOption A is incorrect.", "B"),
        ("choice", "The correct option is (C); option A is too small.", "C"),
        ("choice", "It must be option D.", "D"),
        ("choice", "Answer: C\n\nExplanation:\nA) too small\nB) wrong", "C"),
        ("choice", r"\boxed{\text{C}}", "C"),
        ("choice", "Because of that", None),
        ("code", "So:\n```python\nif x:\n    y\n```\n", "if x:\n    y"),
        ("program", "I can't say: there is no such function.", None),
        (
            "program",
            "<think>def f(): ...</think>It is\n\ndef f(x):\n    return x\n",
            "It is\n\ndef f(x):\n    return x",
        ),
        ("program", "return x + 1", "return x + 1"),
        ("boxed", r"\boxed{1} Answer: 2", "1"),
        ("hash", "Answer: 2\n#### 3", "3"),
        ("last_number", "2 or 3?", "3"),
    ],
)
def test_a_single_rule_finds_what_its_name_says(name, text, answer):
    assert AnswerFormat.parse(name).extract(text) == answer


@pytest.mark.parametrize("name", ["code", "program"])
def test_code_is_taken_as_it_is_written(name):
    code = f"if x:\n{' ' * 60}print('<b>&amp;</b>', 'é−')  # ,.\n"
    assert code.rstrip("\n") in AnswerFormat.parse(name).extract(f"So:\n```python\n{code}```\n")


def test_the_first_rule_of_a_chain_that_finds_an_answer_decides():
    chain = AnswerFormat.parse(["boxed", {"regex": "ANS<(.*?)>"}, "last_number"])
    assert chain.extract(r"\boxed{1} ANS<2> 3") == "1"
    assert chain.extract(r"\boxed{} ANS<1> ANS<2> 3") == "2"
    assert chain.extract("ANS 3") == "3"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("boxd", "got 'boxd', wanted one of auto, .*; did you mean boxed?"),
        (["boxed", 3], "got 3, wanted one of"),
        ([], "wanted at least one rule, got an empty list"),
        ({"regex": "("}, "regex must be a regular expression, got '\\('"),
        ({"regexp": "x"}, "wanted one of"),
    ],
)
def test_a_wrong_format_is_refused_with_what_is_valid(value, message):
    with pytest.raises(ValueError, match=message):
        AnswerFormat.parse(value)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("72", "72"),
        ("It is <<1+1=2>>2.\n#### 1,002", "1,002"),
        (r"Then \boxed{\frac{4}{2}}.", r"\frac{4}{2}"),
        ("ham and eggs", "ham and eggs"),
        ("1331 and 1728", "1331 and 1728"),
        ("The cost of it all together: Answer: 5", "5"),
    ],
)
def test_a_reference_is_the_answer_of_a_solution_or_the_whole(text, reference):
    assert reference_answer(text) == reference


@pytest.mark.skipif(not DATA.exists(), reason="the published files are not here")
def test_every_published_solution_of_gsm8k_has_its_reference_as_its_answer():
    with (DATA / "gsm8k_train.jsonl").open() as lines:
        solutions = [json.loads(line)["answer"] for line in lines]
    for solution in solutions:
        wanted = normalise(solution.rsplit("####", 1)[1])
        assert reference_answer(solution) == wanted
        for answers in (AUTO, GSM8K):
            assert answers.extract(solution) == wanted, solution


@pytest.mark.parametrize(
    "part",
    [
        "the answer is ",
        "\\boxed{",
        "the answer is (",
        "the answer is $",
        "Answer:\n\n",
        "# Answer\n",
        "<think>",
        " ",
        "*",
    ],
)
def test_of_a_runaway_text_little_is_read_closely(part, monkeypatch):
    from orchestrator.core.answers import announced

    read = 0
    to_stop = announced._to_stop

    def counted(text, stops):
        nonlocal read
        read += len(text)
        return to_stop(text, stops)

    monkeypatch.setattr(announced, "_to_stop", counted)
    AUTO.extract(part * 1000)
    assert read <= 2 * announced._MOST * 2000


@given(st.text(alphabet="\\boxed{}#$ answer:is(0)12.,\n*<think>/", max_size=200))
def test_any_text_has_an_answer_or_none_and_it_is_plain(text):
    answer = AUTO.extract(text)
    assert answer is None or (answer == answer.strip() and answer)


@pytest.mark.parametrize(
    "announced", ["ANSWER: 7", "my so short\n\nanswer: 7", "YANIT: 7", "**Ответ:** 7", "答案是 7", "Der Endergebnis: 7"]
)
@pytest.mark.parametrize("before", ["", "and so on " * 50, "İ" * 70])
def test_an_announcement_is_found_after_any_text(before: str, announced: str) -> None:
    assert AnswerFormat.parse(None).extract(f"{before}\n{announced}") == "7"
