"""Models that judge, and their training.

To add a verifier: write a class with the methods of `verifiers.contract.VerifierHost` and name it here. It is imported
inside the actor's process only, so it may import torch at its top; this module, and those of the options, may not.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Of a verifier that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierEntry:
    """Where a verifier's code is and which checkpoints it loads."""

    host: str  # "module:class" with the methods of VerifierHost
    architectures: tuple[str, ...] = ()  # one of which the checkpoint's config.json must name; (): no checkpoint
    scores_steps: bool = True  # False: it judges whole solutions only
    reads_text: bool = False  # True: it wants `Run.solution`, in whatever tokens the policy writes
    learned: bool = True  # False: a rule, which training against it can satisfy only by being right
    options: type = NoOptions  # a frozen dataclass: what `verifier.options` in YAML may set


VERIFIERS: dict[str, VerifierEntry] = {
    "streaming_prm": VerifierEntry(host="verifiers.streaming:StreamingHost", architectures=("HeadraceStreamingPRM",)),
}
