"""Facts about worked examples before a problem: they are the published ones, letter by letter."""

from hashlib import sha256

import pytest

from experiments.data.few_shot import gsm8k_shots, math_shots
from orchestrator.policy.engines.chat_template import plain

# of the prompts that lm-evaluation-harness 0.4.13 makes of these problems, up to where the model writes
GSM8K_COT = "6b14c4d235e15899ca784c8336c2a28e008b360e4b21d34391bc0dd1c2da78a2"
MINERVA_MATH = "febdd658ab6ccdcc089e3ac56cff4f30dd2b747fb557ed5e39d9d0454b7c77df"


def test_a_base_model_gets_the_published_prompt_up_to_its_own_turn() -> None:
    prompt = plain(gsm8k_shots(8, "How many?"))
    assert sha256(f"{prompt}A:".encode()).hexdigest() == GSM8K_COT
    prompt = plain(math_shots(4, "What is $1+1$?"))
    assert sha256(f"{prompt}Solution:".encode()).hexdigest() == MINERVA_MATH


@pytest.mark.parametrize("shots", [1, 3])
def test_fewer_shots_are_the_first_ones_each_a_turn_of_its_own(shots: int) -> None:
    for made in (gsm8k_shots, math_shots):
        messages = made(shots, "So?")
        assert [message.role for message in messages] == ["user", "assistant"] * shots + ["user"]
        assert messages[: 2 * shots] == made(4, "So?")[: 2 * shots]
        assert "So?" in messages[-1].content
