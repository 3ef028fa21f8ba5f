"""The filters of EleutherAI's lm-evaluation-harness for GSM8K and MATH: what they find is found here. Pure."""

import re
from collections.abc import Iterator

from orchestrator.core.answers.found import Found

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_MINERVA = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")


def gsm8k_strict(text: str) -> Iterator[Found]:
    """Task gsm8k, `strict-match`: the first `#### NUMBER`."""
    match = _STRICT.search(text)
    return iter([] if match is None else [Found(match.start(), match[1])])


def gsm8k_flexible(text: str) -> Iterator[Found]:
    """Task gsm8k, `flexible-extract`: the last number."""
    return (Found(match.start(), match[0]) for match in _FLEXIBLE.finditer(text))


def minerva(text: str) -> Iterator[Found]:
    """Task minerva_math: the first `Final Answer: The final answer is ... I hope it is correct.`; the end may lack."""
    match = _MINERVA.search(f"{text}I hope it is correct.")
    return iter([] if match is None else [Found(match.start(), match[1])])
