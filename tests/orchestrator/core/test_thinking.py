"""Facts about where thinking begins and ends in a text."""

import pytest

from orchestrator.core.thinking import Phase, ThinkingMarkers, phase_after, prompted_phase

MARKERS = ThinkingMarkers(start="<think>", end="</think>")


@pytest.mark.parametrize(
    ("prompt", "phase"),
    [
        ("<|im_start|>assistant\n", Phase.BEFORE),  # Qwen3's
        ("<|Assistant|><think>\n", Phase.THINKING),  # DeepSeek-R1's
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", Phase.ANSWER),  # Qwen3's with enable_thinking: false
        ("<think>an earlier turn</think>\n4<|im_end|>\n<|im_start|>assistant\n", Phase.BEFORE),
    ],
)
def test_a_chat_template_may_begin_the_thinking_or_end_it(prompt: str, phase: Phase) -> None:
    assert prompted_phase(prompt, MARKERS) is phase


@pytest.mark.parametrize(
    ("text", "begins", "ends"),
    [
        ("", Phase.BEFORE, Phase.BEFORE),
        ("\n <thi", Phase.BEFORE, Phase.BEFORE),
        ("\n<think>\nSo", Phase.BEFORE, Phase.THINKING),
        ("<think>So</think>4", Phase.BEFORE, Phase.ANSWER),
        ("The answer", Phase.BEFORE, Phase.ANSWER),
        ("Write `<think>`", Phase.BEFORE, Phase.ANSWER),
        ("So </thin", Phase.THINKING, Phase.THINKING),
        ("So </think>", Phase.THINKING, Phase.ANSWER),
        ("```\n<think>\n```", Phase.ANSWER, Phase.ANSWER),
    ],
)
def test_thinking_comes_first_and_once(text: str, begins: Phase, ends: Phase) -> None:
    assert phase_after(text, begins, MARKERS) is ends
