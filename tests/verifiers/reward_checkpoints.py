"""Tiny random checkpoints of each published architecture, with tokenizers of the same make, as folders."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
    Qwen2Model,
)

WIDTH = 64
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
)
LLAMA3 = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|header|>' + m['role'] + '<|/header|>\n\n' + m['content'] | trim"
    " + '<|eot|>' }}{% endfor %}"
)
TEXT = [
    "Janet has 3 apples + 4 pears - 2 plums.\n\nSo 3 + 4 = 7 ки\n\nThe answer is: 7 ки",
    "\\frac{1}{2} + \\sqrt{2} \\boxed{12}. Please reason step by step, system user assistant",
    "+ - ки\n+ - ки\n ки ки + + - -",
] * 4


@cache
def byte_level() -> Tokenizer:
    """As Qwen's and Llama 3's: splits by a pattern, then BPE over bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|begin|>", "<|header|>", "<|/header|>", "<|eot|>", "<extra_0>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace("ки", "") for text in TEXT], trainer)
    return tokenizer


@cache
def metaspace() -> Tokenizer:
    """As Mistral's and Llama 2's: spaces are part of the words, unknown characters are bytes."""
    pieces = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pieces
    trainer = trainers.BpeTrainer(vocab_size=240, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    trained.train_from_iterator([line for text in TEXT for line in text.split("\n")], trainer)
    learned = json.loads(trained.to_str())["model"]
    vocab = learned["vocab"] | {f"<0x{byte:02X}>": len(learned["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    for token in ("▁ки", "▁+", "▁-"):
        assert tokenizer.token_to_id(token) is not None, token
    return tokenizer


def shape(tokenizer: Tokenizer, context_length: int = 1024) -> dict[str, int | float]:
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,  # heads of 32: vLLM's CPU attention takes no smaller ones
        "num_key_value_heads": 1,
        "max_position_embeddings": context_length,
        "initializer_range": 0.2,
    }


def save_tokenizer(folder: Path, tokenizer: Tokenizer, *, bos: str | None = None, chat: str | None = None) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, chat_template=chat).save_pretrained(folder)


def _save_custom(folder: Path, architecture: str, head: dict[str, torch.Tensor]) -> None:
    """As a checkpoint with code of its own: Qwen2's weights, those of a head, and a language model's head besides."""
    config = Qwen2Config(**shape(byte_level()))
    config.architectures = [architecture]
    config.auto_map = {"AutoModel": "modeling_custom.CustomModel"}
    config.save_pretrained(folder)
    weights = {f"model.{name}": tensor for name, tensor in Qwen2Model(config).state_dict().items()}
    save_file(
        {**weights, **head, "lm_head.weight": torch.zeros(config.vocab_size, WIDTH)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def qwen_prm(folder: Path) -> None:
    save_tokenizer(folder, byte_level(), chat=CHATML)
    head = {
        "score.0.weight": (WIDTH, WIDTH),
        "score.0.bias": (WIDTH,),
        "score.2.weight": (2, WIDTH),
        "score.2.bias": (2,),
    }
    _save_custom(folder, "Qwen2ForProcessRewardModel", {k: torch.randn(size) * 0.2 for k, size in head.items()})


def skywork_prm(folder: Path) -> None:
    save_tokenizer(folder, byte_level(), bos="<|begin|>")
    head = {"v_head.summary.weight": torch.randn(1, WIDTH) * 0.2, "v_head.summary.bias": torch.randn(1)}
    _save_custom(folder, "Qwen2ForPrmModel", head)


def math_shepherd(folder: Path) -> None:
    save_tokenizer(folder, metaspace(), bos="<s>")
    MistralForCausalLM(MistralConfig(**shape(metaspace()), sliding_window=24)).save_pretrained(folder)


def rlhflow_prm(folder: Path) -> None:
    save_tokenizer(folder, byte_level(), bos="<|begin|>", chat=LLAMA3)
    LlamaForCausalLM(LlamaConfig(**shape(byte_level()))).save_pretrained(folder)


def two_class_prm(folder: Path) -> None:
    save_tokenizer(folder, byte_level(), bos="<|begin|>")
    Qwen2ForTokenClassification(Qwen2Config(**shape(byte_level()), num_labels=2)).save_pretrained(folder)


def orm(folder: Path) -> None:
    save_tokenizer(folder, byte_level(), chat=CHATML)
    config = Qwen2Config(**shape(byte_level()), num_labels=1, pad_token_id=0)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "qwen_prm": qwen_prm,
    "math_shepherd": math_shepherd,
    "skywork_prm": skywork_prm,
    "rlhflow_prm": rlhflow_prm,
    "two_class_prm": two_class_prm,
    "orm": orm,
}
