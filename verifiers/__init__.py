"""Models that judge, and their training.

To add a verifier: write a class with the methods of `verifiers.contract.VerifierHost` and name it here. It is imported
inside the actor's process only, so it may import torch at its top; this module may not.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierEntry:
    """Where a verifier's code is and which checkpoints it loads."""

    host: str  # "module:class" with the methods of VerifierHost
    scores_steps: bool  # False: it only judges whole solutions
    architecture: str | None  # what `architectures` in the checkpoint's config.json must name; None: no checkpoint


VERIFIERS: dict[str, VerifierEntry] = {
    "streaming_prm": VerifierEntry(
        host="verifiers.streaming:StreamingHost", scores_steps=True, architecture="HeadraceStreamingPRM"
    ),
}
