"""A checkpoint's tokenizer and chat template, which turn solutions into tokens and places to read. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Solution
from verifiers.alignment import Aligner
from verifiers.formats import Format

_PROBE = Problem.from_prompt("probe", "1 + 1 = ?")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedTokens:
    """A solution in the verifier's tokens, up to the last one that is needed."""

    ids: tuple[int, ...]
    places: tuple[int, ...]  # indices of the tokens after which scores can be read, increasing
    asked: tuple[int, ...]  # those of the steps that were asked for, in that order


class SolutionReader:
    """Reads solutions for one checkpoint in one format."""

    def __init__(self, format: Format, tokenizer: Any, *, context_length: int, vocab_size: int) -> None:
        """`tokenizer`: of transformers. Raises ValueError where it does not fit the format."""
        if not tokenizer.is_fast:
            raise ValueError(f"verifier: {tokenizer.name_or_path} has no fast tokenizer, which alone knows offsets")
        self.format, self._tokenizer = format, tokenizer
        self._context_length, self._vocab_size = context_length, vocab_size
        self._aligner = Aligner(tokenizer.backend_tokenizer, bos_id=tokenizer.bos_token_id)
        try:
            self.read(Solution(problem=_PROBE, steps=("One.\n\n", "Two."), asked=(1,), ended=True))
        except ValueError as error:
            raise ValueError(f"verifier: {tokenizer.name_or_path}: the tokenizer does not fit: {error}") from error

    @classmethod
    def load(cls, folder: str, format: Format, *, context_length: int, vocab_size: int) -> "SolutionReader":
        """Raises ValueError."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"verifier: {folder}: the tokenizer can't be loaded: {error}") from error
        return cls(format, tokenizer, context_length=context_length, vocab_size=vocab_size)

    def word_ids(self) -> tuple[int, ...]:
        """The tokens whose logits the format compares; () where the checkpoint has a head. Raises ValueError unless
        each word is one."""
        if not self.format.words:
            return ()
        backend = self._tokenizer.backend_tokenizer
        ids = [i for word in self.format.words for i in backend.encode(word, add_special_tokens=False).ids]
        if len(ids) != self.format.num_logits:
            raise ValueError(f"verifier: {self.format.words} are the tokens {ids}, wanted {self.format.num_logits}")
        return tuple(ids)

    def words(self) -> list[str]:
        """The same as the tokenizer's vocabulary spells them. Raises ValueError."""
        return [self._tokenizer.convert_ids_to_tokens(i) for i in self.word_ids()]

    def read(self, solution: Solution) -> MarkedTokens:
        """Raises ValueError where no score can be given, which would be so every time."""
        tokens = self._aligner.tokenise(self.format.render(solution.problem, solution.steps, self._chat))
        places = [index - self.format.before_mark for index in tokens.marks]
        if self.format.scores_steps:
            asked = [places[step] for step in solution.asked]
        else:
            assert solution.asked == (len(solution.steps) - 1,), "it judges whole solutions only"
            asked = places
        length = max(asked) + 1
        if length > self._context_length:
            raise ValueError(f"the solution takes {length} tokens, the verifier reads at most {self._context_length}")
        ids = tokens.ids[:length]
        if max(ids) >= self._vocab_size:
            raise ValueError(f"token id {max(ids)} is outside the verifier's vocabulary of {self._vocab_size}")
        return MarkedTokens(ids=ids, places=tuple(p for p in places if p < length), asked=tuple(asked))

    def _chat(self, messages: Sequence[Message]) -> str:
        if not self._tokenizer.chat_template:
            raise ValueError("there is no chat template, and the format is a chat")
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(conversation, tokenize=False))
        except TemplateError as error:
            raise ValueError(f"the verifier's chat template refuses the messages: {error}") from error
