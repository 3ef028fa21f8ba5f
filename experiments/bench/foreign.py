"""A policy that others trained, as the benchmarks use it: the questions of `word_problems`, through its chat template.

No worked examples come before a question: with them a solution is one line, and there would be no steps to search. A
step is a line, which small language models write when nobody tells them how. A verifier with random weights has the
costs of a trained one and no use beside timing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer

from experiments.bench.subject import Subject
from experiments.bench.tiny import TINY
from experiments.bench.verifier import LARGE
from experiments.config import resolve_path
from experiments.smollm2.word_problems import generate
from orchestrator.core.checkpoints import read_checkpoint_config
from orchestrator.core.config import PolicyConfig, StepConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.fingerprint import tokenizer_fingerprint
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Sampling
from orchestrator.policy.resolve import resolve_policy
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.resolve import resolve
from verifiers.streaming_prm import StreamingPRM

RANDOM = {"random-mamba2-130m": LARGE}  # words for verifiers that are made for the occasion
STEP_DELIMITER = "\n"
MAX_TOKENS = 96
NUM_PROBLEMS = 16  # of a repeat, all in flight
_CONTEXT = 512  # tokens, or fewer where the policy has fewer
_KV_CACHE_GIB = 2.0
_SLOTS = 512  # of states: 9 GiB at mamba2-130m's sizes


@contextmanager
def subject_of(policy: str | None, verifier: str | None, num_problems: int) -> Iterator[Subject]:
    """What `--policy` and `--verifier` name, or the tiny pair. A verifier that is made for the occasion is there as
    long as the context. Raises UserError."""
    if policy is None:
        yield TINY
        return
    config = resolve_policy(PolicyConfig(model=policy, kv_cache_gib=_KV_CACHE_GIB), resolve_path)
    context = read_checkpoint_config(config.model, "policy").get("max_position_embeddings", _CONTEXT)
    config = replace(config, max_model_len=min(_CONTEXT, context))
    with TemporaryDirectory() as folder:
        yield Subject(
            name=Path(config.model).name,
            policy=config,
            verifier=None if verifier is None else _verifier(verifier, config.model, Path(folder)),
            sampling=Sampling(temperature=0.8, max_tokens=MAX_TOKENS),
            steps=StepConfig(delimiters=[STEP_DELIMITER]),
            problems=_problems,
            num_problems={num_problems: num_problems},
            shares=False,
            num_warm=1,
            num_sampled=num_problems,
            goals={"beam": "<= 1.10", "orchestration": ">= 0.98"},
        )


def _problems(count: int, first: int) -> list[Problem]:
    made = generate(first + count)[first:]
    return [Problem.from_prompt(f"word-{first + i}", problem.question) for i, problem in enumerate(made)]


def _verifier(named: str, policy: str, folder: Path) -> VerifierConfig:
    """A folder, or what a word stands for, written to `folder`."""
    found = resolve_path(named)
    if Path(found).is_dir():
        config = VerifierConfig(model=found, slots=_SLOTS)
    elif named in RANDOM:
        _write_random(named, policy, folder)
        config = VerifierConfig(model=str(folder), slots=_SLOTS)
    else:
        words = " or ".join(RANDOM)
        raise UserError(f"bench: verifier: got {named!r}, wanted the folder of a streaming PRM, or {words}")
    check_verifier(resolve(config))
    return config


def _write_random(word: str, policy: str, folder: Path) -> None:
    """A streaming PRM that reads the policy's tokens. The seed is fixed."""
    vocab = AutoTokenizer.from_pretrained(policy, local_files_only=True).get_vocab()
    sizes = replace(
        RANDOM[word],
        vocab_size=max(vocab.values()) + 1,
        step_delimiter=STEP_DELIMITER,
        tokenizer_fingerprint=tokenizer_fingerprint(vocab),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        StreamingPRM(sizes).save_pretrained(folder)
