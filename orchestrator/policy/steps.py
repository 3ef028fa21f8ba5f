"""Where steps end in a stream of sampled tokens. Needs the `tokenizers` library, no torch and no engine.

A step ends with the token that completes a delimiter in the text of that step itself, or after `every_tokens` tokens.
Text before the step is not looked at: of "\\n\\n\\n" the first two end a step and the third begins the next one, and a
newline that ends the prefix does not make a delimiter with the first sampled one. Special tokens have no text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from orchestrator.core.config import StepConfig
from orchestrator.core.thinking import Phase, phase_after
from orchestrator.policy.thinking import MarkedTokens

_UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no character yet
_INVALID_PREFIX = "Invalid prefix encountered"  # the only error of DecodeStream that a restart cures
_MAX_STOP_TOKENS = 64  # the engine looks through its stop tokens after each token it samples


class TextStream:
    """Decodes tokens one by one, as they would read after `prefix_ids`.

    Bytes of an unfinished character are held back until the token that completes it; if none comes, they are left out.
    """

    def __init__(self, tokenizer: Tokenizer, prefix_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        seed, unfinished = _seed(tokenizer, prefix_ids)
        self._stream = DecodeStream(ids=seed, skip_special_tokens=True)
        for token_id in unfinished:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token_id) or ""
        except Exception as error:  # tokenizers raises no narrower type
            if not str(error).startswith(_INVALID_PREFIX):
                raise
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token_id) or ""


def _seed(tokenizer: Tokenizer, prefix_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """The end of the prefix, long enough to have text, split before the tokens of an unfinished character."""
    width = 8
    while True:
        seed, unfinished = list(prefix_ids[-width:]), list[int]()
        text = tokenizer.decode(seed, skip_special_tokens=True)
        while text.endswith(_UNFINISHED) and len(unfinished) < 3:  # a character has at most 4 bytes
            unfinished.insert(0, seed.pop())
            text = tokenizer.decode(seed, skip_special_tokens=True)
        if text.endswith(_UNFINISHED):
            return [], []
        if text or width >= len(prefix_ids):
            return seed, unfinished
        width *= 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A step that ended, or what there is of one."""

    token_ids: tuple[int, ...]
    text: str
    stopped: bool = False  # it is a stop string
    thinking: bool = False


class _Delimiters:
    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        self.reach = stop_reach(texts)


class StepSplitter:
    """Cuts a stream of tokens into steps and finds stop strings. Owner of the unfinished step.

    A stop string is a piece of its own: whole tokens, from the one in which it begins to the one that completes it. It
    may span steps, and `seen` (text that was sampled before this stream); of tokens already given out it takes none.
    The marker that ends the thinking ends a step, so that no step is half thinking; in the thinking, which begins in
    `phase` after `phase_text`, other delimiters may hold.
    """

    def __init__(
        self,
        steps: StepConfig,
        text: TextStream,
        *,
        stop: Sequence[str] = (),
        seen: str = "",
        marked: MarkedTokens | None = None,
        phase: Phase = Phase.ANSWER,
        phase_text: str = "",
    ) -> None:
        self._text = text
        self._every = steps.every_tokens
        self._delimiters = _Delimiters(() if self._every else steps.delimiters)
        thinking = steps.delimiters if steps.thinking_delimiters is None else steps.thinking_delimiters
        self._thinking_delimiters = _Delimiters(() if self._every else thinking)
        self._marked = marked
        self._phase = phase if marked is not None else Phase.ANSWER
        self.thinking_tokens = 0  # that were pushed
        self.newest = ""  # text that the last token brought
        self._phase_text = phase_text  # what was written in this phase and may belong to a marker
        self._stop = tuple(stop)
        self._stop_reach = stop_reach(stop)
        self._seen = seen
        self._token_ids: list[int] = []
        self._chunks: list[str] = []  # text that each token brought
        self._tail = ""  # end of the step's text, where a delimiter may have begun
        self._num_early = 0  # tokens of the step whose text was told before its end

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def num_pending(self) -> int:
        """Tokens of the unfinished step."""
        return len(self._token_ids)

    def push(self, token_id: int) -> list[Piece]:
        """What this token ends: nothing, a step, or what came before a stop string (if anything) and that string."""
        chunk = self._text.push(token_id)
        if self._marked is not None and self._phase is not Phase.ANSWER:
            chunk = self._marked.text(token_id, chunk)
        self._token_ids.append(token_id)
        self._chunks.append(chunk)
        self.newest = chunk
        if chunk and self._stop:
            window = self._seen + chunk
            found = [at for string in self._stop if (at := window.find(string)) >= 0]
            if found:
                return self._split(len(window) - min(found))
            self._seen = _end(window, self._stop_reach)
        thinking = self._follow(chunk)
        self.thinking_tokens += thinking
        ends = len(self._token_ids) == self._every or (thinking and self._phase is Phase.ANSWER)
        delimiters = self._thinking_delimiters if thinking else self._delimiters
        if chunk and delimiters.texts and not ends:
            window = self._tail + chunk
            ends = any(text in window for text in delimiters.texts)
            self._tail = _end(window, delimiters.reach)
        return [self._take(len(self._token_ids), thinking)] if ends else []

    def _follow(self, chunk: str) -> bool:
        """Moves the phase on. Whether the newest token belongs to the thinking."""
        if self._phase is Phase.ANSWER or not chunk:
            return self._phase is Phase.THINKING
        assert self._marked is not None
        before, markers = self._phase, self._marked.markers
        self._phase_text += chunk
        self._phase = phase_after(self._phase_text, before, markers)
        if self._phase is Phase.THINKING:
            if before is Phase.BEFORE:
                self._phase_text = self._phase_text.lstrip().removeprefix(markers.start)
            self._phase_text = _end(self._phase_text, len(markers.end) - 1)
        return Phase.THINKING in (before, self._phase)

    def early(self) -> tuple[int, str]:
        """Text of the unfinished step that was not told yet and stays, from which character of it on: none of a token
        with which a stop string may have begun, and nothing before it is known whether it is thinking."""
        known = 0 if self._phase is Phase.BEFORE else len(self._chunks)
        starts = (size for string in self._stop for size in range(1, len(string)) if self._seen.endswith(string[:size]))
        held = max(starts, default=0)
        while known and held > 0:
            known -= 1
            held -= len(self._chunks[known])
        first, self._num_early = self._num_early, max(self._num_early, known)
        return sum(map(len, self._chunks[:first])), "".join(self._chunks[first:known])

    def rest(self) -> Piece:
        """What there is of the step (perhaps nothing); the next token begins a new one."""
        return self._take(len(self._token_ids), self._phase is Phase.THINKING)

    def _split(self, num_chars: int) -> list[Piece]:
        """The step before its last `num_chars` characters, and the stop string that they begin with."""
        first = len(self._token_ids)
        while first and num_chars > 0:
            first -= 1
            num_chars -= len(self._chunks[first])
        while first and not self._chunks[first - 1]:  # bytes of the same character
            first -= 1
        thinking = self._phase is Phase.THINKING
        before = [self._take(first, thinking)] if first else []
        return [*before, replace(self.rest(), stopped=True)]

    def _take(self, num_tokens: int, thinking: bool) -> Piece:
        text = "".join(self._chunks[:num_tokens])
        piece = Piece(token_ids=tuple(self._token_ids[:num_tokens]), text=text, thinking=thinking)
        self._token_ids, self._chunks, self._tail = self._token_ids[num_tokens:], self._chunks[num_tokens:], ""
        self._num_early = 0
        return piece


def stop_reach(stop: Iterable[str]) -> int:
    """How many characters before a new one can belong to a stop string that it completes."""
    return max((len(string) for string in stop), default=1) - 1


def _end(text: str, length: int) -> str:
    return text[-length:] if length else ""


class Vocabulary:
    """The text of every token on its own, to tell an engine which tokens complete a delimiter."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.get_vocab_size(with_added_tokens=True))
        self._texts = tokenizer.decode_batch([[token_id] for token_id in ids], skip_special_tokens=True)
        self._found: dict[tuple[str, ...], list[int]] = {}

    def text(self, token_id: int) -> str:
        return self._texts[token_id] if token_id < len(self._texts) else ""  # padding of the model's output

    def tokens_with(self, strings: Sequence[str]) -> list[int]:
        """Tokens whose own text holds one of the strings: the shortest 64, the rest being rare.

        Only a hint that saves aborts: the splitter finds every delimiter, in these tokens or not.
        """
        key = tuple(strings)
        if key not in self._found:
            holders = [i for i, text in enumerate(self._texts) if any(string in text for string in key)]
            self._found[key] = sorted(holders, key=lambda i: (len(self._texts[i]), i))[:_MAX_STOP_TOKENS]
        return self._found[key]
