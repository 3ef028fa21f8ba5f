"""The word-level tokenizer of the tiny pair: tokens hold their own leading space, so that decoding ids is exact.

A step ends with the single token of a blank line; digits are single tokens; "Wait" is a word (budget forcing).
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.tinymath.task import BACK_REFERENCES, DISTRACTIONS, NAMES, NOUNS, STEP_DELIMITER, VERBS

PAD, EOS, UNK, ASSISTANT = "<pad>", "<eos>", "<unk>", "<assistant>"
WAIT = "Wait"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<assistant>{{ message['content'] }}<eos>"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of both models, the same at every call."""
    words = ["Box", " with", "How", " many", " now", "?", ":", "Answer", WAIT]
    words += [f" {symbol}" for symbol in (*VERBS, "=")]
    words += [f" {noun}" for noun in NOUNS]
    words += [f"{space}{name}" for name in NAMES for space in ("", " ")]
    phrases = [*VERBS.values(), *BACK_REFERENCES.values(), *DISTRACTIONS]
    words += [f" {word}" for phrase in phrases for word in phrase.split()]
    words += [f"{space}{digit}" for digit in range(10) for space in ("", " ")]
    tokens = [PAD, EOS, UNK, ASSISTANT, "\n", STEP_DELIMITER, *dict.fromkeys(words)]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNK))
    pieces = Regex(r"\n\n|\n| ?[A-Za-z]+| ?[0-9]| ?//| ?[^\sA-Za-z0-9]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, EOS, UNK, ASSISTANT])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Token ids of a user's prompt up to the start of the completion: what `apply_chat_template` gives."""
    ids: list[int] = tokenizer.encode(f"{prompt}{ASSISTANT}", add_special_tokens=False)
    return ids


def completion_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of a whole completion, with the end token."""
    ids: list[int] = tokenizer.encode(f"{text}{EOS}", add_special_tokens=False)
    return ids
