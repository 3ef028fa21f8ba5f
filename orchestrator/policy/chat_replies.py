"""What a chat API says: its choices, and how many tokens they took. The client does not check what it gets.

Servers report the tokens of all choices together. Where log-probabilities are told of each token, these say how many a
choice has. Else it gets a share by the length of its text, and one that was cut off has `max_tokens` of them: the sum
is the server's, the shares are estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.protocols import Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    text: str
    thoughts: str
    tokens: int  # those of the thinking included
    thinking_tokens: int
    finish: Finish
    logprobs: Sequence[Any] = ()  # what is told of each token, where that was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    prompt_tokens: int
    choices: tuple[Choice, ...]


def read_reply(reply: Any, *, max_tokens: int) -> Reply:
    """Raises AttributeError, TypeError and ValueError for what can't be read."""
    prompt, sampled = int(reply.usage.prompt_tokens), int(reply.usage.completion_tokens)
    details = reply.usage.completion_tokens_details
    thinking = int((details.reasoning_tokens or 0) if details is not None else 0)
    told = [
        (choice.message.content or "", _thoughts(choice), choice.finish_reason == "length") for choice in reply.choices
    ]
    logprobs = [getattr(getattr(choice, "logprobs", None), "content", None) or () for choice in reply.choices]
    if not told:
        raise ValueError("no choices")
    cuts = [cut for *_, cut in told]
    lengths = [len(text) + len(thoughts) for text, thoughts, _ in told]
    tokens = _counted(sampled, [len(of_tokens) for of_tokens in logprobs], cuts)
    if tokens is None:
        tokens = _tokens(sampled, lengths, cuts, max_tokens)
    shown = [len(thoughts) for _, thoughts, _ in told]
    thought = [min(*pair) for pair in zip(apportioned(thinking, shown if any(shown) else tokens), tokens, strict=True)]
    return Reply(
        prompt_tokens=prompt,
        choices=tuple(
            Choice(
                text=text,
                thoughts=thoughts,
                tokens=own,
                thinking_tokens=own_thinking,
                finish=Finish.LENGTH if cut else Finish.EOS,
                logprobs=of_tokens,
            )
            for (text, thoughts, cut), own, own_thinking, of_tokens in zip(told, tokens, thought, logprobs, strict=True)
        ),
    )


def _thoughts(choice: Any) -> str:
    extra = choice.message.model_extra or {}
    return str(extra.get("reasoning") or extra.get("reasoning_content") or "")


def _counted(sampled: int, told: Sequence[int], cut: Sequence[bool]) -> list[int] | None:
    """Of each choice, by the numbers of tokens that are told: of all, or of all but the one that ends a reply. None
    where these are not what was sampled."""
    if not any(told):
        return None
    with_ends = [num + (not is_cut) for num, is_cut in zip(told, cut, strict=True)]
    return next((list(counts) for counts in (told, with_ends) if sum(counts) == sampled), None)


def _tokens(sampled: int, lengths: Sequence[int], cut: Sequence[bool], max_tokens: int) -> list[int]:
    """Of each choice; its text has that length."""
    whole = max_tokens * sum(cut)
    if all(cut) or whole > sampled:  # by another limit than that
        return apportioned(sampled, lengths)
    shares = apportioned(sampled - whole, [0 if is_cut else 1 + n for n, is_cut in zip(lengths, cut, strict=True)])
    return [max_tokens if is_cut else share for share, is_cut in zip(shares, cut, strict=True)]


def apportioned(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers that add up to the total, as near to shares by the weights as can be; the largest rests get what
    is left over."""
    weights = weights if any(weights) else [1] * len(weights)
    shares = [total * weight // sum(weights) for weight in weights]
    rests = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % sum(weights)))
    for index in rests[: total - sum(shares)]:
        shares[index] += 1
    return shares
