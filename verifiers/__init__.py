"""Models that judge, and their training.

To add a verifier: write a class with the methods of `verifiers.contract.VerifierHost` and name it here. It is imported
inside the actor's process only, so it may import torch at its top; this module, and those of the options, may not.
"""

from dataclasses import dataclass

from verifiers.transformer_options import PooledOptions, SeparatorOptions, TransformerOptions


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
    options: type = NoOptions  # a frozen dataclass: what `verifier.options` in YAML may set


# Decoders whose cost and keys and values are computed alike.
_CAUSAL_LMS, _TOKEN_CLASSIFIERS, _SEQUENCE_CLASSIFIERS = (
    tuple(f"{family}For{task}" for family in ("Llama", "Mistral", "Qwen2", "Qwen3"))
    for task in ("CausalLM", "TokenClassification", "SequenceClassification")
)


def _transformer(*architectures: str, options: type = TransformerOptions, scores_steps: bool = True) -> VerifierEntry:
    return VerifierEntry(
        host="verifiers.transformer_prm:TransformerHost",
        architectures=architectures,
        scores_steps=scores_steps,
        reads_text=True,
        options=options,
    )


VERIFIERS: dict[str, VerifierEntry] = {
    "streaming_prm": VerifierEntry(host="verifiers.streaming:StreamingHost", architectures=("HeadraceStreamingPRM",)),
    "qwen_prm": _transformer("Qwen2ForProcessRewardModel", options=PooledOptions),
    "math_shepherd": _transformer(*_CAUSAL_LMS),
    "skywork_prm": _transformer("Qwen2ForPrmModel"),
    "rlhflow_prm": _transformer(*_CAUSAL_LMS),
    "two_class_prm": _transformer(*_TOKEN_CLASSIFIERS, options=SeparatorOptions),
    "orm": _transformer(*_SEQUENCE_CLASSIFIERS, scores_steps=False),
}
