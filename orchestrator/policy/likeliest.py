"""Tokens in the place of a sampled one, from ids to texts that can be read in its place. Needs no engine."""

from collections.abc import Mapping, Sequence

from orchestrator.core.alternatives import Alternatives, may_hold
from orchestrator.policy.steps import Vocabulary


class Reader:
    """Reads what an engine tells of tokens in which one of the words may begin. Owner of what no segment has yet."""

    def __init__(self, vocabulary: Vocabulary, words: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._words = words
        self._read: list[Alternatives] = []
        self._num_chars = 0  # that were pushed
        self._num_taken = 0  # of those, in segments

    def push(self, token_id: int, text: str, likeliest: Mapping[int, float]) -> None:
        """A token brought `text`. On its own it may read otherwise, for some decoders leave out its first space."""
        if may_hold(text, self._words):
            own = self._vocabulary.text(token_id)
            before = text.removesuffix(own) if text.endswith(own) else ""
            told = ((before + self._vocabulary.text(other), logprob) for other, logprob in likeliest.items())
            self._read.append(Alternatives(at=self._num_chars, text=text, logprobs=tuple(told)))
        self._num_chars += len(text)

    def take(self, num_chars: int) -> tuple[Alternatives, ...]:
        """Those of the next characters, counted from the first of these."""
        start, self._num_taken = self._num_taken, self._num_taken + num_chars
        taken = [told for told in self._read if told.at < self._num_taken]
        self._read = self._read[len(taken) :]
        return tuple(Alternatives(at=told.at - start, text=told.text, logprobs=told.logprobs) for told in taken)
