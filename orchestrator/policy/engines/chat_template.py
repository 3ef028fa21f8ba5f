"""Prompts from messages, through a tokenizer's chat template."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Message


def render(tokenizer: Any, messages: Sequence[Message], model: str) -> str:
    """The prompt, as text. `tokenizer` is of transformers. Raises UserError where it has no template, ProblemError for
    messages that the template refuses or fails on."""
    if not tokenizer.chat_template:
        raise UserError(
            f"policy: {model} has no chat template, so messages can't become a prompt; "
            "wanted chat_template.jinja, or chat_template in tokenizer_config.json"
        )
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise ProblemError(f"policy: the chat template refuses these messages: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # of the template's own code
        raise ProblemError(f"policy: the chat template fails on these messages: {error!r}") from error
    return str(text)
