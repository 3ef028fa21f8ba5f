"""Which markers a policy's thinking has: from its chat template, from vLLM's reasoning parsers, or as the user says."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from orchestrator.core.errors import UserError
from orchestrator.core.thinking import Phase, ThinkingMarkers, phase_after, prompted_phase

_REACH = 32  # tokens in which a marker has room
# gpt-oss's harmony: a reply begins in some channel, and only what stands in the last one, `final`, is the answer. The
# markers consist of several special tokens.
_HARMONY = ThinkingMarkers(
    start="<|channel|>",
    end="final<|message|>",
    forced_end="<|end|><|start|>assistant<|channel|>final<|message|>",
)
# of the models that have been published; the first whose end stands in the chat template is taken
_KNOWN = (
    ThinkingMarkers(start="<think>", end="</think>"),  # DeepSeek-R1, Qwen3, QwQ, GLM, MiniMax, Nemotron, OLMo
    ThinkingMarkers(start="[THINK]", end="[/THINK]"),  # Magistral
    ThinkingMarkers(start="<seed:think>", end="</seed:think>"),
    ThinkingMarkers(start="<|START_THINKING|>", end="<|END_THINKING|>"),  # Command A
    ThinkingMarkers(start="◁think▷", end="◁/think▷"),  # Kimi
    _HARMONY,
)


def thinking_markers(asked: Any, tokenizer: Any) -> ThinkingMarkers | None:
    """What `policy.thinking` means for a tokenizer of transformers; None: the policy does not think. Raises UserError
    for a parser that vLLM has not, or one that has no markers."""
    if asked == "none":
        return None
    if asked == "auto":
        template = str(tokenizer.chat_template or "")
        return next((markers for markers in _KNOWN if markers.end in template), None)
    if isinstance(asked, str):
        return _of_parser(asked, tokenizer)
    return ThinkingMarkers(start=asked["start"], end=asked["end"])


def _of_parser(name: str, tokenizer: Any) -> ThinkingMarkers:
    from vllm.reasoning import ReasoningParserManager

    if name == "openai_gptoss":  # vLLM reads that format elsewhere
        return _HARMONY
    try:
        parser = ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
    except KeyError:
        known = ", ".join(sorted(ReasoningParserManager.list_registered()))
        raise UserError(f"policy.thinking: vLLM has no reasoning parser {name!r}; it has {known}") from None
    except (RuntimeError, ValueError) as error:
        raise UserError(f"policy.thinking: the parser {name} does not fit this model: {error}") from error
    start, end = parser.reasoning_start_str, parser.reasoning_end_str
    if not start or not end:
        raise UserError(f"policy.thinking: the parser {name} names no markers; wanted {{start: ..., end: ...}}")
    return ThinkingMarkers(start=start, end=end)


class MarkedTokens:
    """Where the thinking is in token ids. Special tokens of a marker are read, though decoders leave them out."""

    def __init__(self, markers: ThinkingMarkers, tokenizer: Tokenizer) -> None:
        self.markers = markers
        self._tokenizer = tokenizer
        ids = {text: tokenizer.token_to_id(text) for text in (markers.start, markers.end)}
        parts = {id: token.content for id, token in tokenizer.get_added_tokens_decoder().items()}
        texts = (markers.start, markers.end, markers.ending)
        self._special = {id: part for id, part in parts.items() if any(part in text for text in texts)}
        self._special |= {token_id: text for text, token_id in ids.items() if token_id is not None}
        self._end_id = ids[markers.end]

    def text(self, token_id: int, decoded: str) -> str:
        """What a token adds to the text: a marker that is a special token is left out by the decoder."""
        return decoded or self._special.get(token_id, "")

    def begin(self, prefix_ids: Sequence[int], num_prompt: int) -> tuple[Phase, str]:
        """The phase after a prefix whose first `num_prompt` tokens are the prompt, and the end of its text, in which
        a marker may have begun."""
        phase = prompted_phase(self._text(prefix_ids[max(0, num_prompt - _REACH) : num_prompt]), self.markers)
        if phase is Phase.ANSWER or len(prefix_ids) == num_prompt:
            return phase, ""
        written = prefix_ids[num_prompt:]
        if len(written) > 2 * _REACH:  # long: its text is not needed
            begun = phase_after(self._text(written[:_REACH]), phase, self.markers)
            if begun is Phase.ANSWER or (begun is Phase.THINKING and self._end_id in written):
                return Phase.ANSWER, ""
            if begun is Phase.THINKING and self._end_id is not None:
                return begun, self._text(written[-_REACH:])[1 - len(self.markers.end) :]
        text = self._text(written)
        phase = phase_after(text, phase, self.markers)
        reach = {Phase.BEFORE: len(text), Phase.THINKING: len(self.markers.end) - 1, Phase.ANSWER: 0}[phase]
        return phase, text[max(0, len(text) - reach) :]

    def _text(self, token_ids: Sequence[int]) -> str:
        """With special tokens."""
        return str(self._tokenizer.decode(list(token_ids), False))
