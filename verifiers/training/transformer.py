"""Training of transformer verifiers: a PRM with two classes per token, and an ORM with one number per solution.

Both are transformers' own classes, so their checkpoints load everywhere. A two-class PRM is read where a step's
separator ends: class 1 is "every step so far is correct" (the layout of TRL's PRMTrainer). An ORM is read at the last
token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifiers.calibration import fit_temperature
from verifiers.metrics import labelled_steps
from verifiers.training.batches import pad
from verifiers.training.encoding import Encoded
from verifiers.training.losses import boundary_loss, consistency_loss


class TransformerTrainee:
    """Owns a model for token classification (two classes) or sequence classification (one) that learns."""

    def __init__(self, model: Any, *, consistency: float = 0.0) -> None:
        if model.config.num_labels not in (1, 2) or not isinstance(model.score, nn.Linear):
            raise ValueError(
                f"transformer verifier: got {type(model).__name__} with {model.config.num_labels} labels, wanted a "
                "linear `score` head with one (ORM) or two (PRM)"
            )
        self.model = model
        self.consistency = consistency

    def backward(self, batch: Sequence[Encoded], step: int) -> dict[str, float]:
        """Adds the gradients of a batch's loss; returns the loss and its terms, unweighted."""
        logits = self._at_boundaries(batch)
        labels = [torch.tensor([torch.nan if x is None else x for x in solution.labels]) for solution in batch]
        flat, truths = torch.cat(logits), torch.cat(labels).to(self._device)
        boundary = boundary_loss(flat, truths) / (~truths.isnan()).sum().clamp(min=1)
        before = torch.cat([row.roll(1) for row in logits])
        opens = torch.cat([torch.arange(len(row)) == 0 for row in logits]).to(self._device)
        consistency = consistency_loss(flat, before, ~opens) / (~opens).sum().clamp(min=1)
        loss = boundary + self.consistency * consistency
        loss.backward()
        return {"loss": loss.item(), "boundary": boundary.item(), "consistency": consistency.item()}

    @torch.inference_mode()
    def logits(self, batch: Sequence[Encoded]) -> list[list[float]]:
        """Of each solution, at its boundaries."""
        return [row.tolist() for row in self._at_boundaries(batch)]

    def finish(self, logits: Sequence[Sequence[float]], labels: Sequence[Sequence[float | None]]) -> dict[str, float]:
        """Fits a temperature on validation steps and divides the linear head by it: the format has no other place."""
        temperature = round(fit_temperature(*labelled_steps(logits, labels)), 4)
        with torch.no_grad():
            for parameter in self.model.score.parameters():
                parameter /= temperature
        return {"temperature": temperature}

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def _at_boundaries(self, batch: Sequence[Encoded]) -> list[Tensor]:
        """The logit of "correct" at each boundary of each solution."""
        ids, lengths = pad([solution.prompt_ids + solution.completion_ids for solution in batch])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        body = getattr(self.model, self.model.base_model_prefix)
        hidden = body(input_ids=ids.to(self._device), attention_mask=mask.to(self._device), use_cache=False)
        where = [
            (row, len(solution.prompt_ids) + end - 1)
            for row, solution in enumerate(batch)
            for end in solution.boundaries
        ]
        rows, columns = torch.tensor(where, device=self._device).unbind(1)
        scored = self.model.score(hidden.last_hidden_state[rows, columns])
        flat = scored[:, 0] if scored.shape[1] == 1 else scored[:, 1] - scored[:, 0]
        return list(flat.float().split([len(solution.boundaries) for solution in batch]))
