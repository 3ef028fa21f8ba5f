"""Seeds that depend on what is computed and not on when: a row is the same in any order of work."""

import hashlib


def derive_seed(run_seed: int, problem_id: str, path: tuple[int, ...]) -> int:
    """A 63-bit seed from (run seed, problem id, branch path)."""
    text = f"{run_seed}\x1f{problem_id}\x1f{','.join(map(str, path))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
