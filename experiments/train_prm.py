"""`headrace train-prm`: a verifier from labelled solutions, with its history in Parquet and as a plot.

Everything that can be wrong with the configuration, the data or the tokenizer is said before anything heavy begins.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from omegaconf import MISSING
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from experiments.config import load_yaml
from experiments.figure import draw_training
from orchestrator.checkpoints import check_safetensors, read_checkpoint_config
from orchestrator.core.errors import UserError
from orchestrator.core.fingerprint import tokenizer_fingerprint
from verifiers.metrics import best_threshold, processbench_f1
from verifiers.streaming_prm import ARCHITECTURE, PRMConfig, StreamingPRM
from verifiers.training.batches import plan_epoch, split_by_problem
from verifiers.training.encoding import Encoded, encode_separated, encode_stream, encode_whole
from verifiers.training.labelled import LabelledSolution, read_labelled
from verifiers.training.streaming import LossWeights, StreamingTrainee, with_fresh_verifier
from verifiers.training.trainer import METRICS, OptimizerSettings, Row, Trainee, Trainer, TrainerSettings, measure
from verifiers.training.transformer import TransformerTrainee

CONFIG_FILE, CHECKPOINT_FILE, RECORD_FILE = "config.yaml", "checkpoint.pt", "training.json"
HISTORY_FILE, FIGURE_FILE = "training.parquet", "training.png"


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
    sizes: dict[str, Any] = field(
        default_factory=dict
    )  # fields of PRMConfig, or of transformers' config with its model_type
    step_delimiter: str = "\n\n"  # between the steps of text; a streaming base has its own
    separator: str = "\n"  # two_class_prm: after each step
    tbptt_tokens: int = 1024  # streaming_prm: gradients reach back over at most so many tokens

    def __post_init__(self) -> None:
        if (self.base is None) == (not self.sizes):
            raise ValueError("model: wanted either base, or sizes for fresh weights")
        if self.reset_head and (self.kind is not Kind.streaming_prm or self.base is None):
            raise ValueError("model: reset_head is for a streaming_prm with a base")
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
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device: wanted auto, cpu or cuda, got {self.device!r}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training whose parts were all checked."""

    config: TrainConfig
    identity: str  # resolved YAML: what a checkpoint must agree with
    folder: Path
    tokenizer: Any
    training: list[Encoded]
    validation: list[Encoded]
    num_steps: int


def plan_training(path: Path, overrides: Sequence[str], *, resume: bool, overwrite: bool) -> Plan:
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
        identity=resolved,
        folder=folder,
        tokenizer=tokenizer,
        training=parts[0],
        validation=parts[1],
        num_steps=config.steps or _steps_of(config, parts[0]),
    )


def train(plan: Plan, console: Console, *, resume: bool) -> bool:
    """Trains, writes history, figure and verifier into the plan's folder; False when it was interrupted."""
    config, folder = plan.config, plan.folder
    keep_freed_memory()
    torch.manual_seed(config.seed)
    trainee = _make_trainee(plan)
    trainee.model.to("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    settings = TrainerSettings(
        num_steps=plan.num_steps,
        batch_tokens=config.batch_tokens,
        per_problem=_per_problem(config),
        validate_every=config.validate_every,
        seed=config.seed,
        optimizer=config.optimizer,
    )
    trainer = Trainer(trainee, plan.training, plan.validation, settings)
    checkpoint = folder / CHECKPOINT_FILE
    if resume and checkpoint.exists():
        try:
            trainer.restore(checkpoint, plan.identity)
        except ValueError as error:
            raise UserError(f"train-prm: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(plan.identity)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    num_parameters = sum(p.numel() for p in trainee.model.parameters())
    console.print(
        f"[bold]{config.model.kind.value}[/] of {num_parameters:,} parameters: {len(plan.training)} solutions, "
        f"{len(plan.validation)} for validation, {plan.num_steps} steps" + (f", {trainer.step} done" if resume else ""),
        highlight=False,
    )
    with _progress(console) as progress, _stop_requested() as stopped:
        bar = progress.add_task("training", total=plan.num_steps, completed=trainer.step, said="")

        def on_row(row: Row) -> None:
            progress.update(bar, completed=row["step"], said=f"loss {row['loss']:.3f}")
            if row["ece"] is not None:
                progress.console.print(f"step {row['step']:.0f}: loss {row['loss']:.3f}{_said(row)}", highlight=False)
            if row["step"] % config.checkpoint_every == 0 and row["step"] < plan.num_steps:  # type: ignore[operator]
                trainer.save(checkpoint, plan.identity)

        finished = trainer.run(on_row, stopped)
    _write_history(trainer.rows, folder)
    if not finished:
        trainer.save(checkpoint, plan.identity)
        return False
    _conclude(trainer, folder, console, num_parameters)
    checkpoint.unlink(missing_ok=True)
    return True


def keep_freed_memory() -> None:
    """Asks the C allocator to keep what is freed: training frees large buffers at every step, and giving them back to
    the system each time costs more than the arithmetic. glibc only; elsewhere nothing is done."""
    if sys.platform == "linux":
        import ctypes

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            for option, value in ((-4, 0), (-1, 1 << 30), (-2, 1 << 29)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
                mallopt(option, value)


def _conclude(trainer: Trainer, folder: Path, console: Console, num_parameters: int) -> None:
    """The verifier, its record and the table's line."""
    logits, labels = trainer.judged()
    record: dict[str, Any] = {"steps": trainer.step, "parameters": num_parameters}
    record |= {
        "tokens": sum(row["tokens"] or 0 for row in trainer.rows),
        "seconds": round(trainer.rows[-1]["seconds"] or 0, 1),
    }
    uncalibrated = measure(logits, labels)["ece"]
    fitted = trainer.trainee.finish(logits, labels)
    logits, labels = trainer.judged()
    record |= {**measure(logits, labels), "ece_uncalibrated": uncalibrated, **fitted}
    if record["processbench_f1"] is not None:
        scores = [torch.tensor(row).sigmoid().tolist() for row in logits]
        record["best_threshold"] = best_threshold(scores, labels)
        record["processbench_f1_at_best_threshold"] = processbench_f1(scores, labels, record["best_threshold"])
    trainer.trainee.save(folder)
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
    shown = ("steps", "tokens", "seconds", *METRICS, *fitted)
    table = Table(*(name.replace("_", " ") for name in shown), box=None, pad_edge=False)
    table.add_row(*("-" if record[name] is None else f"{record[name]:.4g}" for name in shown))
    console.print(table)
    console.print(f"wrote {folder}", highlight=False, soft_wrap=True)


def _write_history(rows: Sequence[Row], folder: Path) -> None:
    if rows:
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / HISTORY_FILE)
        draw_training(rows, METRICS).savefig(folder / FIGURE_FILE, dpi=120)


def _said(row: Row) -> str:
    return "".join(f", {name.replace('_', ' ')} {row[name]:.3f}" for name in METRICS if row[name] is not None)


def _steps_of(config: TrainConfig, training: Sequence[Encoded]) -> int:
    planned = [
        plan_epoch(
            training,
            batch_tokens=config.batch_tokens,
            per_problem=_per_problem(config),
            seed=config.seed,
            epoch=epoch,
        )
        for epoch in range(config.epochs or 0)
    ]
    return sum(map(len, planned))


def _per_problem(config: TrainConfig) -> int:
    """A transformer reads the prompt of every solution: none is shared."""
    return config.solutions_per_problem if config.model.kind is Kind.streaming_prm else 1


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"train-prm: no labelled solutions at {path}")
    return Path(path)


def _check_base(model: ModelConfig) -> None:
    assert model.base is not None
    found = read_checkpoint_config(model.base, "train-prm: base").get("architectures") or []
    if (model.kind is Kind.streaming_prm) != (found == [ARCHITECTURE]):
        wanted = ARCHITECTURE if model.kind is Kind.streaming_prm else "a transformer"
        raise UserError(f"train-prm: base {model.base}: got {', '.join(found) or 'no architecture'}, wanted {wanted}")
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


def _make_trainee(plan: Plan) -> Trainee:
    try:
        if plan.config.model.kind is Kind.streaming_prm:
            return _streaming_trainee(plan)
        return _transformer_trainee(plan)
    except (TypeError, ValueError) as error:
        raise UserError(f"train-prm: model: {error}") from None


def _streaming_trainee(plan: Plan) -> StreamingTrainee:
    config, model = plan.config, plan.config.model
    fingerprint = tokenizer_fingerprint(plan.tokenizer.get_vocab())
    if model.base is None:
        sizes = {"vocab_size": len(plan.tokenizer), **model.sizes}
        prm = StreamingPRM(PRMConfig(**sizes, step_delimiter=model.step_delimiter, tokenizer_fingerprint=fingerprint))
    else:
        prm = StreamingPRM.from_pretrained(model.base)
        if prm.config.tokenizer_fingerprint != fingerprint:
            raise ValueError(f"{model.base} reads another vocabulary than the tokenizer {config.tokenizer}")
        if model.reset_head:
            prm = with_fresh_verifier(prm)
    return StreamingTrainee(prm, config.loss, tbptt_tokens=model.tbptt_tokens, lm_steps=config.lm_steps)


def _transformer_trainee(plan: Plan) -> TransformerTrainee:
    config, model, tokenizer = plan.config, plan.config.model, plan.tokenizer
    auto, num_labels = (
        (transformers.AutoModelForTokenClassification, 2)
        if model.kind is Kind.two_class_prm
        else (transformers.AutoModelForSequenceClassification, 1)
    )
    special = {"num_labels": num_labels, "pad_token_id": tokenizer.pad_token_id}
    if model.base is None:
        sizes = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **model.sizes}
        if "model_type" not in sizes:
            raise ValueError("sizes: model_type is missing, wanted one of transformers', such as llama or qwen2")
        loaded = auto.from_config(transformers.AutoConfig.for_model(**sizes, **special))
    else:
        loaded = auto.from_pretrained(model.base, local_files_only=True, dtype=torch.float32, **special)
    return TransformerTrainee(loaded, tokenizer, consistency=config.loss.consistency)


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came: the step that is running is finished first, so that a checkpoint is whole."""
    requested = False

    def request(*_: object) -> None:
        nonlocal requested
        requested = True

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
