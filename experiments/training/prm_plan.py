"""What `headrace train-prm` is told, read and checked: everything but the weights, before anything heavy begins."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import MISSING

from experiments.config import load_yaml
from orchestrator.core.checkpoints import check_safetensors, read_checkpoint_config
from orchestrator.core.errors import UserError
from verifiers.streaming_prm import ARCHITECTURE
from verifiers.training.batches import plan_epoch, split_by_problem
from verifiers.training.encoding import Encoded, encode_separated, encode_stream, encode_whole
from verifiers.training.labelled import LabelledSolution, read_labelled
from verifiers.training.streaming import LossWeights
from verifiers.training.trainer import OptimizerSettings, TrainerSettings

RECORD_FILE = "training.json"


class Kind(StrEnum):
    """Names of `verifiers.VERIFIERS` that can be trained."""

    streaming_prm = "streaming_prm"
    two_class_prm = "two_class_prm"
    orm = "orm"


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Parquet files, or folders of them, of labelled solutions."""

    train: str = MISSING
    validation: str | None = None  # None: a share of the training problems
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"data: validation_share must be in (0, 1), got {self.validation_share}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained, and from where."""

    kind: Kind = Kind.streaming_prm
    base: str | None = None  # a checkpoint folder; None: fresh weights of `sizes`
    reset_head: bool = False  # streaming_prm: of `base` keep the trunk only
    freeze_trunk: bool = False  # streaming_prm: only the verifier block and the head learn
    sizes: dict[str, Any] = field(
        default_factory=dict
    )  # fields of PRMConfig, or of transformers' config with its model_type
    step_delimiter: str = "\n\n"  # between the steps, where a solution is text only
    separator: str = "\n"  # two_class_prm: after each step
    tbptt_tokens: int = 1024  # streaming_prm: gradients reach back over at most so many tokens

    def __post_init__(self) -> None:
        if (self.base is None) == (not self.sizes):
            raise ValueError("model: wanted either base, or sizes for fresh weights")
        if self.reset_head and (self.kind is not Kind.streaming_prm or self.base is None):
            raise ValueError("model: reset_head is for a streaming_prm with a base")
        if self.freeze_trunk and (self.kind is not Kind.streaming_prm or self.base is None):
            raise ValueError("model: freeze_trunk is for a streaming_prm with a base")
        if not self.step_delimiter or not self.separator:
            raise ValueError("model: step_delimiter and separator must not be empty")
        if self.tbptt_tokens < 2:
            raise ValueError(f"model: tbptt_tokens must be >= 2, got {self.tbptt_tokens}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training."""

    out: str = MISSING
    data: LabelledData = MISSING
    tokenizer: str = MISSING  # a folder; for streaming_prm the policy's
    model: ModelConfig = MISSING
    loss: LossWeights = field(default_factory=LossWeights)  # transformers know the terms boundary and consistency
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    steps: int | None = None
    epochs: int | None = None
    lm_steps: int = 0  # streaming_prm: the first of the steps, in which only the trunk learns
    batch_tokens: int = 8192
    solutions_per_problem: int = 4  # of one problem, in a batch; a streaming PRM reads their prompt once
    validate_every: int = 100
    checkpoint_every: int = 100
    seed: int = 0
    device: str = "auto"  # cpu, cuda, or auto: cuda where there is one

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("wanted either steps or epochs")
        for name in ("steps", "epochs", "batch_tokens", "solutions_per_problem", "validate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be >= 1, got {value}")
        if self.lm_steps < 0 or (self.lm_steps and self.model.kind is not Kind.streaming_prm):
            raise ValueError(f"lm_steps: must be >= 0, and 0 for {self.model.kind.value}, got {self.lm_steps}")
        if self.model.freeze_trunk and (self.loss.lm or self.lm_steps):
            raise ValueError("model: a frozen trunk learns no language: wanted loss.lm and lm_steps of 0")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device: wanted auto, cpu or cuda, got {self.device!r}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training whose parts were all checked."""

    config: TrainConfig
    resolved_yaml: str
    identity: str  # of what decides the result: what a checkpoint must agree with
    folder: Path
    tokenizer: Any
    training: list[Encoded]
    validation: list[Encoded]
    settings: TrainerSettings


def plan_prm(path: Path, overrides: Sequence[str], *, resume: bool, overwrite: bool) -> Plan:
    """Reads and checks everything but the weights. Raises UserError."""
    config, resolved = load_yaml(path, TrainConfig, overrides)
    folder = Path(config.out)
    if folder.exists() and any(folder.iterdir()) and not (resume or overwrite):
        raise UserError(f"train-prm: {folder} is not empty; wanted --resume, --overwrite or another `out`")
    if resume and (folder / RECORD_FILE).exists():
        raise UserError(f"train-prm: the training in {folder} is finished; wanted --overwrite or another `out`")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train-prm: device: got cuda, but torch finds no CUDA device")
    if config.model.base is not None:
        _check_base(config.model)
    try:
        tokenizer = _load_tokenizer(config)
        solutions = read_labelled(_existing(config.data.train))
        if config.data.validation is None:
            training, validation = split_by_problem(solutions, config.data.validation_share, config.seed)
        else:
            training, validation = solutions, read_labelled(_existing(config.data.validation))
        shared = {s.problem_id for s in training} & {s.problem_id for s in validation}
        if shared:
            raise UserError(
                f"train-prm: {len(shared)} problems of the validation data are among the training data, such as "
                f"{min(shared)}"
            )
        _check_ids(training, tokenizer, config)
        parts = [[_encode(s, tokenizer, config.model) for s in part] for part in (training, validation)]
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"train-prm: {error}") from None
    for name, part in zip(("training", "validation"), parts, strict=True):
        _check_labels(name, part)
    return Plan(
        config=config,
        resolved_yaml=resolved,
        identity=_identity(config, parts),
        folder=folder,
        tokenizer=tokenizer,
        training=parts[0],
        validation=parts[1],
        settings=_settings(config, parts[0]),
    )


def _identity(config: TrainConfig, parts: Sequence[Sequence[Encoded]]) -> str:
    """A hash of the data and of the configuration, but for where the training runs and how often it is saved."""
    decisive = replace(config, out="", device="auto", checkpoint_every=1)
    return hashlib.sha256(repr((decisive, parts)).encode()).hexdigest()


def _settings(config: TrainConfig, training: Sequence[Encoded]) -> TrainerSettings:
    """A transformer reads the prompt of every solution: of one problem none stay together."""
    per_problem = config.solutions_per_problem if config.model.kind is Kind.streaming_prm else 1

    def num_batches(epoch: int) -> int:
        limits = {"batch_tokens": config.batch_tokens, "per_problem": per_problem, "seed": config.seed}
        return len(plan_epoch(training, epoch=epoch, **limits))

    return TrainerSettings(
        num_steps=config.steps or sum(map(num_batches, range(config.epochs or 0))),
        batch_tokens=config.batch_tokens,
        per_problem=per_problem,
        validate_every=config.validate_every,
        seed=config.seed,
        optimizer=config.optimizer,
    )


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"train-prm: no labelled solutions at {path}")
    return Path(path)


def _check_base(model: ModelConfig) -> None:
    assert model.base is not None
    config = read_checkpoint_config(model.base, "train-prm: base")
    found = config.get("architectures") or []
    if (model.kind is Kind.streaming_prm) != (found == [ARCHITECTURE]):
        wanted = ARCHITECTURE if model.kind is Kind.streaming_prm else "a transformer"
        raise UserError(f"train-prm: base {model.base}: got {', '.join(found) or 'no architecture'}, wanted {wanted}")
    if config.get("step_delimiter", model.step_delimiter) != model.step_delimiter:
        got, wanted = model.step_delimiter, config["step_delimiter"]
        raise UserError(f"train-prm: step_delimiter: got {got!r}, wanted that of {model.base}, {wanted!r}")
    check_safetensors(model.base, "train-prm: base")


def _load_tokenizer(config: TrainConfig) -> Any:
    """Raises ValueError for one that can't tell where steps end."""
    if not Path(config.tokenizer).is_dir():
        raise UserError(f"train-prm: tokenizer: no folder {config.tokenizer}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(config.tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"train-prm: tokenizer {config.tokenizer}: {str(error).splitlines()[0]}") from None
    separator = config.model.separator if config.model.kind is Kind.two_class_prm else config.model.step_delimiter
    ids = tokenizer.encode(separator, add_special_tokens=False)
    if not ids or tokenizer.unk_token_id in ids:
        raise UserError(f"train-prm: tokenizer {config.tokenizer} has no tokens for the separator {separator!r}")
    if not tokenizer.is_fast:
        raise UserError(
            f"train-prm: tokenizer {config.tokenizer}: wanted a fast one, which knows the place of each token"
        )
    if config.model.kind is not Kind.two_class_prm and not tokenizer.chat_template:
        raise UserError(f"train-prm: tokenizer {config.tokenizer} has no chat template")
    if config.model.kind is Kind.streaming_prm and tokenizer.eos_token_id is None:
        raise UserError(f"train-prm: tokenizer {config.tokenizer} has no end token")
    return tokenizer


def _check_ids(solutions: Sequence[LabelledSolution], tokenizer: Any, config: TrainConfig) -> None:
    """Ids of another vocabulary would train on noise without a word."""
    if config.model.kind is not Kind.streaming_prm:
        return
    for solution in solutions[:: max(1, len(solutions) // 16)]:
        if solution.step_ids is not None and solution.completions[0] not in tokenizer.decode(solution.step_ids[0]):
            raise UserError(
                f"train-prm: ids of {solution.problem_id}: with the tokenizer {config.tokenizer} they read "
                f"{tokenizer.decode(solution.step_ids[0])!r}, wanted {solution.completions[0]!r}"
            )
    largest = max((max(map(max, s.step_ids)) for s in solutions if s.step_ids and all(s.step_ids)), default=0)
    if largest >= len(tokenizer):
        raise UserError(f"train-prm: ids: got {largest}, wanted less than the tokenizer's {len(tokenizer)}")


def _encode(solution: LabelledSolution, tokenizer: Any, model: ModelConfig) -> Encoded:
    if model.kind is Kind.streaming_prm:
        return encode_stream(solution, tokenizer, model.step_delimiter)
    if model.kind is Kind.two_class_prm:
        return encode_separated(solution, tokenizer, model.separator)
    return encode_whole(solution, tokenizer, model.step_delimiter)


def _check_labels(name: str, solutions: Sequence[Encoded]) -> None:
    known = [label for solution in solutions for label in solution.labels if label is not None]
    right = sum(label >= 0.5 for label in known)
    if not known:
        raise UserError(f"train-prm: {name} data: no step has a label")
    if right in (0, len(known)):
        raise UserError(
            f"train-prm: {name} data: wanted right and wrong steps, got {right} right (a label of at least a half) of "
            f"{len(known)}"
        )
