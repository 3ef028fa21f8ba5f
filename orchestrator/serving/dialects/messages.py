"""What messages have in common in the dialects that have them."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import WithJsonSchema

from orchestrator.serving.errors import invalid

TEXT_PARTS = ("text", "input_text", "output_text")
_NOT_OF_TEMPLATES = {  # arguments of what renders a template, and the conversation itself
    "chat_template",
    "conversation",
    "messages",
    "tools",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
}


def joined(content: Any) -> Any:
    """A message's content as one string."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not (isinstance(part, dict) and part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str)):
            raise ValueError("wanted a string or a list of text parts")
        texts.append(part["text"])
    return "".join(texts)


def check_arguments(arguments: str) -> None:
    """Raises ValueError for the arguments of a call that chat templates can't read."""
    try:
        json.loads(arguments or "{}")
    except ValueError:
        raise ValueError("arguments must be JSON") from None


_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": list(TEXT_PARTS)}, "text": {"type": "string"}},
}
CONTENT = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]})
"""As `joined` reads it."""


def known_role(role: str) -> str:
    """OpenAI's newer name of the system role is read as the older one, which chat templates know."""
    return "system" if role == "developer" else role


def checked_template(kwargs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The arguments of the chat template. Raises ApiError for those that are not its own."""
    for name in kwargs or {}:
        if name in _NOT_OF_TEMPLATES:
            param = f"chat_template_kwargs.{name}"
            raise invalid(f"{param}: it is no argument of the chat template", param=param)
    return kwargs or {}
