"""Identity of a vocabulary: two models can share token ids only when their fingerprints are equal."""

import hashlib
import json
from collections.abc import Mapping


def tokenizer_fingerprint(vocab: Mapping[str, int]) -> str:
    """SHA-256 (hex) of the vocabulary, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(sorted(vocab.items())).encode()).hexdigest()
