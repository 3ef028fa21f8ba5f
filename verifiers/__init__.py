"""Models that judge, and their training.

To add a verifier: write a class with the methods of `verifiers.contract.VerifierHost` and name it here. It is imported
inside the actor's process only, so it may import torch at its top. This module, and those of the options, may not.
To add a generative one: derive its options from `verifiers.generative_options.GenerativeOptions`. It needs no host.
"""

from dataclasses import dataclass

from verifiers.ensemble import Ensemble
from verifiers.generative import GenerativePRM
from verifiers.generative_options import GenerativeOptions
from verifiers.generative_orm import GenerativeORM
from verifiers.llm_judge import LLMJudge
from verifiers.rules import ReferenceOptions, RegexOptions
from verifiers.transformer_options import PooledOptions, SeparatorOptions, TransformerOptions
from verifiers.unit_tests import UnitTestsOptions


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Of a verifier that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierEntry:
    """Where a verifier's code is and which checkpoints it loads."""

    host: str | None  # "module:class" with the methods of VerifierHost; None: its options say who judges
    architectures: tuple[str, ...] = ()  # one of which the checkpoint's config.json must name; (): no checkpoint
    scores_steps: bool = True  # False: it judges whole solutions only
    reads_text: bool = False  # True: it wants `Run.solution`, in whatever tokens the policy writes
    one_run_per_call: bool = False  # True: a run may take seconds, so that each has a deadline of its own
    learned: bool = True  # False: a rule, which training against it can satisfy only by being right
    options: type = NoOptions  # a frozen dataclass: what `verifier.options` in YAML may set


def _rule(host: str, options: type) -> VerifierEntry:
    return VerifierEntry(
        host=host, scores_steps=False, reads_text=True, one_run_per_call=True, learned=False, options=options
    )


def _written(options: type[GenerativeOptions]) -> VerifierEntry:
    return VerifierEntry(host=None, scores_steps=options.scores_steps, reads_text=True, options=options)


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
    "retokenized_prm": VerifierEntry(
        host="verifiers.retokenized:RetokenizedHost", architectures=("HeadraceStreamingPRM",), reads_text=True
    ),
    "exact_match": _rule("verifiers.rules:ExactMatchHost", ReferenceOptions),
    "math_equivalence": _rule("verifiers.rules:MathEquivalenceHost", ReferenceOptions),
    "regex": _rule("verifiers.rules:RegexHost", RegexOptions),
    "unit_tests": _rule("verifiers.unit_tests:UnitTestsHost", UnitTestsOptions),
    "generative_prm": _written(GenerativePRM),
    "generative_orm": _written(GenerativeORM),
    "llm_judge": _written(LLMJudge),
    "ensemble": VerifierEntry(host=None, options=Ensemble),  # of what its members are
    "qwen_prm": _transformer("Qwen2ForProcessRewardModel", options=PooledOptions),
    "math_shepherd": _transformer(*_CAUSAL_LMS, options=PooledOptions),
    "skywork_prm": _transformer("Qwen2ForPrmModel"),
    "rlhflow_prm": _transformer(*_CAUSAL_LMS, options=PooledOptions),
    "two_class_prm": _transformer(*_TOKEN_CLASSIFIERS, options=SeparatorOptions),
    "orm": _transformer(*_SEQUENCE_CLASSIFIERS, options=PooledOptions, scores_steps=False),
}
