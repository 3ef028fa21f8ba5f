"""Ids are the truth: the tokenizer is exact on the task's text, and the shipped one is the built one."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import experiments.tinymath
from experiments.tinymath.task import STEP_DELIMITER, generate
from experiments.tinymath.tokenizer import build_tokenizer, completion_ids, prompt_ids

MODELS = Path(experiments.tinymath.__file__).parent / "models"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_decoding_is_exact_and_nothing_is_unknown(tokenizer: PreTrainedTokenizerFast) -> None:
    for problem in generate("dev", 100):
        ids = completion_ids(tokenizer, problem.solution)
        assert tokenizer.decode(ids) == f"{problem.solution}<eos>"
        assert tokenizer.decode(prompt_ids(tokenizer, problem.prompt)) == f"{problem.prompt}<assistant>"
        assert tokenizer.unk_token_id not in ids


def test_chat_template_gives_the_training_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = generate("dev", 1)[0].prompt
    chat = [{"role": "user", "content": prompt}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == prompt_ids(
        tokenizer, prompt
    )


@pytest.mark.parametrize("token", [STEP_DELIMITER, "Wait", "<eos>", "<unk>", "<pad>"])
def test_tokens_that_search_needs_are_single(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    assert len(tokenizer.encode(token)) == 1


def test_unknown_text_is_the_unknown_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.unk_token_id in tokenizer.encode("Kim buys happiness")


@pytest.mark.parametrize("model", ["policy", "prm"])
def test_the_shipped_tokenizer_is_the_built_one(tokenizer: PreTrainedTokenizerFast, model: str) -> None:
    shipped = AutoTokenizer.from_pretrained(MODELS / model)
    text = generate("dev", 1)[0].prompt + "\n\nWait"
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.encode(text) == tokenizer.encode(text)
    assert shipped.chat_template == tokenizer.chat_template
