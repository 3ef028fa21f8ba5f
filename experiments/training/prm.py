"""`headrace train-prm`: a verifier from labelled solutions, with its history in Parquet and as a plot."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from experiments.training.memory import keep_freed_memory
from experiments.training.prm_figure import draw_reliability, draw_training
from experiments.training.prm_plan import RECORD_FILE, Kind, Plan
from orchestrator.core.errors import UserError
from orchestrator.core.fingerprint import tokenizer_fingerprint
from verifiers.calibration import reliability
from verifiers.metrics import best_threshold, labelled_steps, processbench_f1
from verifiers.streaming_prm import PRMConfig, StreamingPRM
from verifiers.training.streaming import StreamingTrainee, freeze_trunk, with_fresh_verifier
from verifiers.training.trainer import METRICS, Row, Trainee, Trainer, measure
from verifiers.training.transformer import TransformerTrainee

CONFIG_FILE, CHECKPOINT_FILE = "config.yaml", "checkpoint.pt"
HISTORY_FILE, FIGURE_FILE = "training.parquet", "training.png"
RELIABILITY_FILE = "reliability.png"  # of the validation steps, before and after temperature scaling


def train(plan: Plan, console: Console, *, resume: bool) -> bool:
    """Trains, writes history, figure and verifier into the plan's folder; False when it was interrupted."""
    config, folder, num_steps = plan.config, plan.folder, plan.settings.num_steps
    keep_freed_memory()
    torch.manual_seed(config.seed)
    trainee = _make_trainee(plan)
    trainee.model.to("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    trainer = Trainer(trainee, plan.training, plan.validation, plan.settings)
    checkpoint = folder / CHECKPOINT_FILE
    if resume and checkpoint.exists():
        try:
            trainer.restore(checkpoint, plan.identity)
        except ValueError as error:
            raise UserError(f"train-prm: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(plan.resolved_yaml)
    for stale in () if resume else (checkpoint, folder / RECORD_FILE):
        stale.unlink(missing_ok=True)
    num_parameters = sum(p.numel() for p in trainee.model.parameters())
    console.print(
        f"[bold]{config.model.kind.value}[/] of {num_parameters:,} parameters: {len(plan.training)} solutions, "
        f"{len(plan.validation)} for validation, {num_steps} steps" + (f", {trainer.step} done" if resume else ""),
        highlight=False,
    )
    with _progress(console) as progress, _stop_requested() as stopped:
        bar = progress.add_task("training", total=num_steps, completed=trainer.step, said="")

        def on_row(row: Row) -> None:
            progress.update(bar, completed=row["step"], said=f"loss {row['loss']:.3f}")
            if row["ece"] is not None:
                progress.console.print(f"step {row['step']:.0f}: loss {row['loss']:.3f}{_said(row)}", highlight=False)
            if row["step"] % config.checkpoint_every == 0 and row["step"] < num_steps:  # type: ignore[operator]
                trainer.save(checkpoint, plan.identity)

        finished = trainer.run(on_row, stopped)
    _write_history(trainer.rows, folder)
    if not finished:
        trainer.save(checkpoint, plan.identity)
        return False
    _conclude(trainer, folder, console, num_parameters)
    plan.tokenizer.save_pretrained(folder)  # so that the verifier can read text, too
    checkpoint.unlink(missing_ok=True)
    return True


def _conclude(trainer: Trainer, folder: Path, console: Console, num_parameters: int) -> None:
    """The verifier, its record and the table's line."""
    logits, labels = trainer.judged()
    record: dict[str, Any] = {"steps": trainer.step, "parameters": num_parameters}
    record |= {
        "tokens": sum(row["tokens"] or 0 for row in trainer.rows),
        "seconds": round(trainer.rows[-1]["seconds"] or 0, 1),
    }
    fitted = trainer.trainee.finish(logits, labels)
    uncalibrated = _probabilities(logits)
    logits = [[logit / fitted["temperature"] for logit in row] for row in logits]
    scores = _probabilities(logits)
    bins = {
        name: reliability(*labelled_steps(before_or_after, labels))
        for name, before_or_after in (("as trained", uncalibrated), ("with its temperature", scores))
    }
    draw_reliability(bins).savefig(folder / RELIABILITY_FILE, dpi=120)
    record |= {**measure(logits, labels), "ece_uncalibrated": trainer.rows[-1]["ece"], **fitted}
    if record["processbench_f1"] is not None:
        record["best_threshold"] = best_threshold(scores, labels)
        record["processbench_f1_at_best_threshold"] = processbench_f1(scores, labels, record["best_threshold"])
    trainer.trainee.save(folder)
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
    shown = ("steps", "tokens", "seconds", *METRICS, *fitted)
    table = Table(*(METRICS.get(name, name).replace(" ", "\n") for name in shown), box=None, pad_edge=False)
    table.add_row(*("-" if record[name] is None else f"{record[name]:.4g}" for name in shown))
    console.print(table)
    console.print(f"wrote {folder}", highlight=False, soft_wrap=True)


def _probabilities(logits: Sequence[Sequence[float]]) -> list[list[float]]:
    return [torch.tensor(row).sigmoid().tolist() for row in logits]


def _write_history(rows: Sequence[Row], folder: Path) -> None:
    if rows:
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / HISTORY_FILE)
        draw_training(rows, METRICS).savefig(folder / FIGURE_FILE, dpi=120)


def _said(row: Row) -> str:
    return "".join(f", {name} {row[column]:.3f}" for column, name in METRICS.items() if row[column] is not None)


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
        if model.freeze_trunk:
            freeze_trunk(prm)
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
        known = transformers.AutoConfig.for_model(sizes["model_type"]).to_dict().keys()
        if unknown := model.sizes.keys() - known:
            raise ValueError(f"sizes: {sizes['model_type']} has no {', '.join(sorted(unknown))}")
        loaded = auto.from_config(transformers.AutoConfig.for_model(**sizes, **special))
    else:
        with _quiet():  # about the head, which is meant to be new
            loaded, info = auto.from_pretrained(
                model.base, local_files_only=True, dtype=torch.float32, output_loading_info=True, **special
            )
        if lacking := sorted(name for name in info["missing_keys"] if not name.startswith("score.")):
            raise ValueError(f"{model.base} lacks {len(lacking)} weights, the first is {lacking[0]}")
    return TransformerTrainee(loaded, consistency=config.loss.consistency)


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers says nothing but errors."""
    said = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(said)
        transformers.logging.enable_progress_bar()


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
