"""Prompts from messages: through the model's chat template, or plainly where it has none."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Message


def render(tokenizer: Any, messages: Sequence[Message], config: PolicyConfig, template: Mapping[str, Any]) -> str:
    """The prompt, as text: the configuration's system prompt and examples, then the messages. `tokenizer` is of
    transformers; `template` are arguments over the configured ones. Raises ProblemError for messages that the template
    refuses or fails on."""
    conversation = with_examples(messages, config)
    if not tokenizer.chat_template:
        return plain(conversation)
    kwargs = {**config.chat_template_kwargs, **template}
    try:
        told = [as_dict(message) for message in conversation]
        text = tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=False, **kwargs)
    except TemplateError as error:
        raise ProblemError(f"policy: the chat template refuses these messages: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # of the template's own code
        raise ProblemError(f"policy: the chat template fails on these messages: {error!r}") from error
    return str(text)


def as_dict(message: Message) -> dict[str, Any]:
    """As the OpenAI API and chat templates have it, the arguments of calls read. Raises ValueError for what is no
    JSON."""
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments or "{}")},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    return told


def with_examples(messages: Sequence[Message], config: PolicyConfig) -> tuple[Message, ...]:
    """The messages after the system prompt and the examples; a problem's own system message stands in its place."""
    system = [Message(role="system", content=config.system_prompt)] if config.system_prompt else []
    if messages and messages[0].role == "system":
        system, messages = [messages[0]], messages[1:]
    return (*system, *config.examples, *messages)


def plain(messages: Sequence[Message]) -> str:
    """For a base model: the texts, an empty line between them; what an assistant said follows its question directly."""
    text = ""
    for message in messages:
        gap = "" if not text else "\n" if message.role == "assistant" else "\n\n"
        text += gap + message.content
    return f"{text}\n"
