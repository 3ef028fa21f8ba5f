"""From a rendering to a verifier's own tokens: which token each mark is, exactly, by token offsets. No torch.

Where a mark can't be placed that is an error that says why; a neighbour is never taken instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer

from verifiers.formats import Rendering, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A rendering in tokens."""

    ids: tuple[int, ...]
    marks: tuple[int, ...]  # index of the token at which each mark ends


class Aligner:
    """Tokenises renderings. What the problem or the policy wrote is text, even where it looks like a special token."""

    def __init__(self, tokenizer: Tokenizer, *, bos_id: int | None = None) -> None:
        self._tokenizer, self._bos_id = tokenizer, bos_id
        self._plain = Tokenizer.from_str(tokenizer.to_str())
        self._plain.encode_special_tokens = True  # as text
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token_id: token.content for token_id, token in added.items() if token.special}
        self._added = set(added)
        self._stands_alone = cache(self._tokenises_alone)

    def tokenise(self, rendering: Rendering) -> Tokens:
        """Raises ValueError for a mark that can't be placed."""
        text = rendering.text
        encoded: list[tuple[int, Span]] = []
        start = 0
        for piece in rendering.pieces:
            encoded += self._encode(piece, start, rendering.quoted)
            start += len(piece)
        marks = _tokens_at(text, rendering, encoded)
        if rendering.whole_marks:
            self._check_unquoted({encoded[index][0] for index in marks}, encoded, rendering)
        ids = tuple(token_id for token_id, _ in encoded)
        if not rendering.bos or self._bos_id is None:
            return Tokens(ids=ids, marks=tuple(marks))
        return Tokens(ids=(self._bos_id, *ids), marks=tuple(index + 1 for index in marks))

    def _encode(self, piece: str, start: int, quoted: Sequence[Span]) -> list[tuple[int, Span]]:
        """Ids, and spans that count from `start`."""
        encoding = self._tokenizer.encode(piece, add_special_tokens=False)
        spans = [(start + a, start + b) for a, b in encoding.offsets]
        encoded = list(zip(encoding.ids, spans, strict=True))
        special = [
            (token_id, (a, b))
            for token_id, (a, b) in encoded
            if self._special.get(token_id) == piece[a - start : b - start].strip()  # else it stands for unknown text
        ]
        own = [(token_id, span) for token_id, span in special if not _overlaps(span, quoted)]
        if len(own) == len(special):
            return encoded
        # The format's own special tokens stay; what is between them is encoded as text.
        encoded, at = [], start
        for token_id, span in own:
            if not self._stands_alone(token_id):
                raise ValueError(
                    "the text holds a special token of the verifier, which its tokenizer can't read as text"
                )
            encoded += [*self._encode_text(piece[at - start : span[0] - start], at), (token_id, span)]
            at = span[1]
        return encoded + self._encode_text(piece[at - start :], at)

    def _encode_text(self, text: str, start: int) -> list[tuple[int, Span]]:
        encoding = self._plain.encode(text, add_special_tokens=False)
        return [(i, (start + a, start + b)) for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)]

    def _tokenises_alone(self, token_id: int) -> bool:
        """Whether what comes after this special token is tokenised as if it stood alone."""
        probe, token = "a b", self._special[token_id]
        whole = self._tokenizer.encode(token + probe, add_special_tokens=False).ids
        return bool(whole == [token_id, *self._plain.encode(probe, add_special_tokens=False).ids])

    def _check_unquoted(self, mark_ids: set[int], encoded: Sequence[tuple[int, Span]], rendering: Rendering) -> None:
        """A mark that is an added token, and no ordinary text, must not come from what was written."""
        marks = mark_ids & self._added
        for token_id, span in encoded:
            if token_id in marks and _overlaps(span, rendering.quoted):
                held = rendering.text[slice(*span)]
                raise ValueError(f"the text holds the verifier's mark {held!r}, which is always a token")


def _overlaps(span: Span, others: Sequence[Span]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def _tokens_at(text: str, rendering: Rendering, encoded: Sequence[tuple[int, Span]]) -> list[int]:
    """The index of each mark's last token."""
    ends = {end: index for index, (_, (start, end)) in enumerate(encoded) if start < end}
    found = []
    for step, (start, end) in enumerate(rendering.marks):
        mark = text[start:end] if end - start <= 20 else f"...{text[end - 20 : end]}"
        index = ends.get(end)
        if index is None:
            raise ValueError(f"after step {step} no token of the verifier ends where {mark!r} does")
        begins = encoded[index][1][0]
        if text[begins:start].strip(" "):
            raise ValueError(f"after step {step} {mark!r} shares a token with {text[begins:start]!r}")
        if rendering.whole_marks and begins > start:
            raise ValueError(f"after step {step} {mark!r} is more than one token of the verifier")
        if any(span[0] < end for _, span in encoded[index + 1 : index + 2]):
            raise ValueError(f"after step {step} {mark!r} shares a token with what follows")
        found.append(index)
    return found
