"""The loop that trains every verifier: batches by tokens, validation, checkpoints that resume to the same result.

What is learnt, and how it is read and saved, is the trainee's business. Which batch comes at which step is a function
of the seed, so a checkpoint holds no data.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers import get_scheduler

from orchestrator.core.errors import UserError
from verifiers.calibration import expected_calibration_error, reliability
from verifiers.metrics import first_error_accuracy, labelled_steps, processbench_f1, step_auroc
from verifiers.training.batches import endless_batches, plan_epoch
from verifiers.training.encoding import Encoded
from verifiers.training.muon import is_matrix, split_optimizers

Row = dict[str, float | None]
METRICS = {  # of a row, and what people call them
    "step_auroc": "step AUROC",
    "first_error_accuracy": "first-error accuracy",
    "processbench_f1": "ProcessBench F1",
    "ece": "ECE",
}


class Trainee(Protocol):
    """A verifier that learns."""

    @property
    def model(self) -> nn.Module: ...

    def backward(self, batch: Sequence[Encoded], step: int) -> dict[str, float]:
        """Adds the gradients of a batch's loss; returns the loss and its terms, the same names at every step."""
        ...

    def logits(self, batch: Sequence[Encoded]) -> list[list[float]]:
        """Of each solution, the logit of P(every step so far is correct) at its boundaries."""
        ...

    def finish(self, logits: Sequence[Sequence[float]], labels: Sequence[Sequence[float | None]]) -> dict[str, float]:
        """After the last step, with the logits on validation data: fits what is left. Returns what to record, the
        `temperature` that `logits` are divided by from now on among it."""
        ...

    def save(self, folder: Path) -> None:
        """Writes a checkpoint that the verifier loads."""
        ...


class Schedule(StrEnum):
    """Of the learning rate after its warm-up; names of `transformers.get_scheduler`."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant_with_warmup"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """AdamW, or Muon on matrices with AdamW on the rest."""

    lr: float = 1e-4  # of AdamW
    muon_lr: float | None = None  # None: no Muon
    weight_decay: float = 0.0
    warmup_steps: int = 20
    schedule: Schedule = Schedule.linear
    max_grad_norm: float | None = 1.0  # None: gradients are not clipped

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"optimizer: {name} must be > 0, got {value}")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError("optimizer: weight_decay and warmup_steps must be >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """How long, in what pieces, how often something is done besides."""

    num_steps: int
    batch_tokens: int
    per_problem: int  # solutions of one problem that stay together in a batch
    validate_every: int
    seed: int
    optimizer: OptimizerSettings


class Trainer:
    """Owner of the optimizers, the place in the data and the history (`rows`, one per step)."""

    def __init__(
        self, trainee: Trainee, training: Sequence[Encoded], validation: Sequence[Encoded], settings: TrainerSettings
    ) -> None:
        self.trainee, self.training, self.validation, self.settings = trainee, training, validation, settings
        self.rows: list[Row] = []
        self._optimizers = _optimizers(trainee.model, settings.optimizer)
        self._schedulers = [
            get_scheduler(
                settings.optimizer.schedule.value, optimizer, settings.optimizer.warmup_steps, settings.num_steps
            )
            for optimizer in self._optimizers
        ]

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.rows)

    def run(self, on_row: Callable[[Row], None], stopped: Callable[[], bool]) -> bool:
        """Trains to the last step, or until `stopped` says so after a step; whether it came to the last."""
        settings = self.settings
        batches = endless_batches(
            self.training,
            batch_tokens=settings.batch_tokens,
            per_problem=settings.per_problem,
            seed=settings.seed,
            skip=self.step,
        )
        before = self.rows[-1]["seconds"] or 0.0 if self.rows else 0.0
        began = time.monotonic()
        while self.step < settings.num_steps and not stopped():
            batch = [self.training[i] for i in next(batches)]
            row: Row = {"step": self.step + 1, "tokens": sum(solution.num_tokens for solution in batch)}
            row |= self._learn(batch)
            row |= dict.fromkeys(METRICS)
            if row["step"] == settings.num_steps or (self.step + 1) % settings.validate_every == 0:
                row |= measure(*self.judged())
            row["seconds"] = before + time.monotonic() - began
            self.rows.append(row)
            on_row(row)
        return self.step == settings.num_steps

    def judged(self) -> tuple[list[list[float]], list[tuple[float | None, ...]]]:
        """Logits and labels of the validation solutions."""
        self.trainee.model.eval()
        logits: list[list[float]] = [[]] * len(self.validation)
        batches = plan_epoch(
            self.validation,
            batch_tokens=self.settings.batch_tokens,
            per_problem=self.settings.per_problem,
            seed=self.settings.seed,
            epoch=0,
        )
        for batch in batches:
            for index, found in zip(batch, self.trainee.logits([self.validation[i] for i in batch]), strict=True):
                logits[index] = found
        return logits, [solution.labels for solution in self.validation]

    def save(self, path: Path, identity: str) -> None:
        """Everything that `restore` needs, at once or not at all. `identity` says what is being trained on what."""
        state = {
            "identity": identity,
            "model": self.trainee.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
            "rows": self.rows,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        part = path.with_name(f".{path.name}.part")
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path, identity: str) -> None:
        """Goes on from a checkpoint. Raises ValueError for one of another training."""
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise ValueError(f"checkpoint {path}: can't be read: {error}") from None
        if state["identity"] != identity:
            raise ValueError(f"checkpoint {path}: it is of a training with other data or another configuration")
        self.trainee.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(self._schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        self.rows = state["rows"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _learn(self, batch: Sequence[Encoded]) -> dict[str, float]:
        self.trainee.model.train()
        terms = self.trainee.backward(batch, self.step)
        if not np.isfinite(terms["loss"]):
            raise UserError(f"training: the loss of step {self.step + 1} is {terms['loss']}: try a lower learning rate")
        if self.settings.optimizer.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.trainee.model.parameters(), self.settings.optimizer.max_grad_norm)
        for optimizer, scheduler in zip(self._optimizers, self._schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        return terms


def measure(logits: Sequence[Sequence[float]], labels: Sequence[Sequence[float | None]]) -> Row:
    """The metrics of `METRICS`; None where the labels don't allow one."""
    scores = [[1 / (1 + np.exp(-logit)) for logit in row] for row in logits]
    flat, truths = labelled_steps(scores, labels)
    measured: Row = {"ece": expected_calibration_error(reliability(flat, truths))}
    for metric in (step_auroc, first_error_accuracy, processbench_f1):
        try:
            measured[metric.__name__] = metric(scores, labels)
        except ValueError:
            measured[metric.__name__] = None
    return measured


def _optimizers(model: nn.Module, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    if settings.muon_lr is not None:
        return split_optimizers(model, is_matrix, settings.muon_lr, settings.lr, settings.weight_decay)
    return [torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True)]
