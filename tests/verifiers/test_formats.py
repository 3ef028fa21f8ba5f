import math
from collections.abc import Sequence

import pytest

from orchestrator.core.nouns import Message, Problem
from verifiers.formats import FORMATS, Rendering, format_of

PROBLEM = Problem(
    id="p",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content=" What is 3 + 4?\n")),
)
STEPS = ("3 + 4 = 7\n\n", "\n\n", "So 7.\nAnswer: 7")


def chat(messages: Sequence[Message]) -> str:
    return "".join(f"<{m.role}>{m.content}</{m.role}>\n" for m in messages)


def marked(name: str) -> tuple[str, Rendering]:
    """The text, with each mark between bars."""
    rendering = FORMATS[name].render(PROBLEM, STEPS, chat)
    text, end, shown = rendering.text, 0, ""
    for start, stop in rendering.marks:
        shown += f"{text[end:start]}|{text[start:stop]}|"
        end = stop
    return shown + text[end:], rendering


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "qwen_prm",
            "<system>Please reason step by step, and put your final answer within \\boxed{}.</system>\n"
            "<user>What is 3 + 4?</user>\n"
            "<assistant>3 + 4 = 7|<extra_0>||<extra_0>|So 7.\nAnswer: 7|<extra_0>|</assistant>\n",
        ),
        ("math_shepherd", "What is 3 + 4? 3 + 4 = 7 |ки|\n |ки|\nSo 7.\nAnswer: 7 |ки|"),
        ("skywork_prm", "What is 3 + 4?\n3 + 4 = 7|\n||\n|So 7.\nAnswer: 7|\n|"),
        (
            "rlhflow_prm",
            "<user>What is 3 + 4? 3 + 4 = 7</user>\n<assistant>|+|</assistant>\n"
            "<user></user>\n<assistant>|+|</assistant>\n"
            "<user>So 7.\nAnswer: 7</user>\n<assistant>|+|</assistant>\n",
        ),
        ("two_class_prm", "What is 3 + 4?3 + 4 = 7|\n||\n|So 7.\nAnswer: 7|\n|"),
        (
            "orm",
            "|<system>Be brief.</system>\n<user>What is 3 + 4?</user>\n"
            "<assistant>3 + 4 = 7\n\n\n\nSo 7.\nAnswer: 7</assistant>\n|",
        ),
    ],
)
def test_a_format_is_written_as_published(name: str, wanted: str) -> None:
    assert marked(name)[0] == wanted


QUESTION, LAST = "What is 3 + 4?", "So 7.\nAnswer: 7"


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("qwen_prm", [QUESTION, "3 + 4 = 7", "", LAST]),
        ("math_shepherd", [QUESTION, "3 + 4 = 7", "", LAST]),
        ("skywork_prm", [QUESTION, "3 + 4 = 7", "", "So 7.", "Answer: 7"]),
        ("rlhflow_prm", [f"{QUESTION} 3 + 4 = 7", "", LAST]),
        ("two_class_prm", [QUESTION, "3 + 4 = 7", "", LAST]),
        ("orm", ["Be brief.", QUESTION, "".join(STEPS)]),
    ],
)
def test_what_others_wrote_is_quoted_and_the_format_s_own_is_not(name: str, quoted: list[str]) -> None:
    rendering = marked(name)[1]
    assert [rendering.text[start:end] for start, end in rendering.quoted] == quoted


def test_each_line_of_a_step_is_tokenised_on_its_own_for_skywork() -> None:
    assert marked("skywork_prm")[1].pieces == (
        *("What is 3 + 4?\n", "3 + 4 = 7", "\n", "", "\n"),
        *("So 7.", "\n", "Answer: 7", "\n"),
    )


def test_steps_and_separators_are_tokenised_on_their_own_for_two_classes() -> None:
    rendering = format_of("two_class_prm", separator=" #\n").render(PROBLEM, STEPS[:1], chat)
    assert rendering.pieces == ("What is 3 + 4?", "3 + 4 = 7", " #\n")


def test_beliefs_are_those_of_a_softmax_or_a_sigmoid() -> None:
    assert FORMATS["qwen_prm"].belief([0.0, 2.0]) == pytest.approx(0.880797)
    assert FORMATS["rlhflow_prm"].belief([0.0, 2.0]) == pytest.approx(0.119203)
    assert FORMATS["orm"].belief([2.0]) == pytest.approx(0.880797)
    assert math.isnan(FORMATS["qwen_prm"].belief([0.0, math.inf]))
    assert FORMATS["orm"].belief([-800.0]) == 0.0 and FORMATS["orm"].belief([800.0]) == 1.0


@pytest.mark.parametrize(
    "template",
    [
        lambda messages: chat(messages).upper(),
        lambda messages: chat(messages[1:]),
        lambda messages: chat(messages) + chat(messages[:1]),
        lambda messages: chat(messages).replace("7", "seven"),
    ],
)
def test_a_chat_template_that_changes_what_is_said_is_an_error(template: object) -> None:
    with pytest.raises(ValueError, match="chat template changes the text"):
        FORMATS["qwen_prm"].render(PROBLEM, STEPS, template)  # type: ignore[arg-type]
