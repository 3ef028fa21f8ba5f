"""Tokens in the place of a sampled one, from ids to texts that can be read in its place. Needs no engine."""

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from orchestrator.core.alternatives import Alternatives, ReadToken, may_hold
from orchestrator.policy.steps import TextStream, Vocabulary


def read_back(
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    token_ids: Sequence[int],
    told: Sequence[Mapping[int, float]],
    start: int,
) -> tuple[ReadToken, ...]:
    """The tokens from `start` on. At each place of `token_ids` an engine told of its token and of the likeliest ones,
    at the first of nothing."""
    names = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    hidden = {token_id: name for token_id, name in names.items() if not vocabulary.text(token_id)}
    text, tokens = TextStream(tokenizer, token_ids[:start]), []
    for token_id, logprobs in zip(token_ids[start:], told[start:], strict=True):
        own, added = vocabulary.text(token_id), text.push(token_id)
        before = added.removesuffix(own) if added.endswith(own) else ""  # some decoders leave out a first space
        shown = hidden.get(token_id, added)
        likeliest = [
            (shown if other == token_id else hidden.get(other, before + vocabulary.text(other)), logprob)
            for other, logprob in sorted(logprobs.items(), key=lambda item: -item[1])
        ]
        tokens.append(
            ReadToken(
                text=shown,
                special=token_id in hidden,
                logprob=logprobs.get(token_id),
                likeliest=tuple(likeliest),
            )
        )
    return tuple(tokens)


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
