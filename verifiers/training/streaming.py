"""Training of the streaming PRM by truncated backpropagation with carried states.

A batch is read in pieces of `tbptt_tokens`; gradients stop between them, states don't. So the scores are those of the
whole, the memory is that of a piece, and a chain of any length trains. Solutions of one prompt share its state.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from verifiers.calibration import fit_temperature
from verifiers.metrics import labelled_steps
from verifiers.streaming_prm import NUM_SURPRISES, PRMOutput, StreamingPRM
from verifiers.training.batches import pad
from verifiers.training.encoding import Encoded
from verifiers.training.losses import boundary_loss, consistency_loss, evidential_loss

_TRUNK = ("embedding.", "trunk.", "trunk_norm.")
_SURPRISE_GAIN = 150.0  # of weights that start as small as those of 256 other inputs, on inputs of 1/12 per nat


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Of the terms, each a mean: over boundaries, tokens, or pairs of neighbouring boundaries."""

    boundary: float = 1.0  # cross-entropy at step ends
    token: float = 0.5  # cross-entropy at tokens within a step before and after which the labels are the same
    lm: float = 1.0  # language modelling of steps, each weighted by its label: the trunk models correct solutions
    evidence: float = 0.1  # of the Beta's concentration
    consistency: float = 0.0  # a prefix can't become right again


LANGUAGE_ONLY = LossWeights(boundary=0.0, token=0.0, lm=1.0, evidence=0.0)


def with_fresh_verifier(base: StreamingPRM) -> StreamingPRM:
    """The trunk of `base` under a verifier block and a head that have learnt nothing.

    A trained trunk is surprised where a step goes wrong, so that is made loud from the start: a nat of surprise weighs
    about as much as all else that the verifier block compares.
    """
    model = StreamingPRM(replace(base.config, temperature=1.0))
    trunk = {name: tensor for name, tensor in base.state_dict().items() if name.startswith(_TRUNK)}
    model.load_state_dict({**model.state_dict(), **trunk})
    with torch.no_grad():
        model.compare.weight[:, -NUM_SURPRISES:] *= _SURPRISE_GAIN
    return model


def freeze_trunk(model: StreamingPRM) -> None:
    """From now on only the verifier block and the head learn: what the trunk expects is what they compare with."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(_TRUNK))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """A batch, padded. Targets are NaN where there is none."""

    prompts: Tensor  # (prompts, prompt time)
    prompt_lengths: Tensor
    prompt_of: Tensor  # (rows,): index of a row's prompt
    ids: Tensor  # (rows, time)
    lengths: Tensor
    step_labels: Tensor  # (rows, time): at boundaries
    token_labels: Tensor  # (rows, time): where the labels of the step's two ends agree
    lm_weights: Tensor  # (rows, time): of the prediction of this token
    ends: Tensor  # (rows, time): whether a step ends here, labelled or not

    def to(self, device: torch.device) -> "_Rows":
        return _Rows(**{name: getattr(self, name).to(device) for name in self.__slots__})


def _rows(batch: Sequence[Encoded]) -> _Rows:
    prompts = list(dict.fromkeys(solution.prompt_ids for solution in batch))
    prompt_ids, prompt_lengths = pad(prompts)
    ids, lengths = pad([solution.completion_ids for solution in batch])
    step_labels, token_labels = torch.full(ids.shape, torch.nan), torch.full(ids.shape, torch.nan)
    lm_weights, ends = torch.zeros(ids.shape), torch.zeros(ids.shape, dtype=torch.bool)
    for row, solution in enumerate(batch):
        start, before = 0, 1.0  # nothing is wrong before the first step
        for end, label in zip(solution.boundaries, solution.labels, strict=True):
            ends[row, end - 1] = True
            if label is not None:
                step_labels[row, end - 1] = label
                lm_weights[row, start:end] = label
                if label == before:
                    token_labels[row, start:end] = label
            start, before = end, torch.nan if label is None else label
    return _Rows(
        prompts=prompt_ids,
        prompt_lengths=prompt_lengths,
        prompt_of=torch.tensor([prompts.index(solution.prompt_ids) for solution in batch]),
        ids=ids,
        lengths=lengths,
        step_labels=step_labels,
        token_labels=token_labels,
        lm_weights=lm_weights,
        ends=ends,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Columns of a batch that were read together, of the rows that reach so far."""

    rows: Tensor  # (kept,)
    columns: slice
    output: PRMOutput


class StreamingTrainee:
    """Owns a StreamingPRM that learns. See `verifiers.training.trainer.Trainee`."""

    def __init__(self, model: StreamingPRM, weights: LossWeights, *, tbptt_tokens: int, lm_steps: int = 0) -> None:
        if tbptt_tokens < 2:
            raise ValueError(f"streaming PRM: tbptt_tokens must be >= 2, got {tbptt_tokens}")
        model.config = replace(model.config, temperature=1.0)
        self.model = model
        self.weights = weights
        self.tbptt_tokens = tbptt_tokens
        self.lm_steps = lm_steps  # first steps, in which only the trunk learns

    def backward(self, batch: Sequence[Encoded], step: int) -> dict[str, float]:
        """Adds the gradients of a batch's loss; returns the loss and its terms, unweighted."""
        rows = _rows(batch).to(self._device)
        counts = {
            "boundary": (~rows.step_labels.isnan()).sum(),
            "token": (~rows.token_labels.isnan()).sum(),
            "lm": rows.lm_weights[:, 1:].sum(),
            "evidence": (~rows.step_labels.isnan()).sum(),
            "consistency": (rows.ends.sum(1) - 1).clamp(min=0).sum(),
        }
        chosen = LANGUAGE_ONLY if step < self.lm_steps else self.weights
        weights = {name: getattr(chosen, name) for name, count in counts.items() if count > 0}
        totals = dict.fromkeys(counts, 0.0)
        last = torch.full((len(batch),), torch.nan, device=self._device)  # each row's logit at its last boundary
        for piece in self._pieces(rows):
            sums = self._sums(rows, piece, last)
            terms = {name: sums[name] / counts[name] for name, weight in weights.items() if weight}
            if terms:
                torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            for name, term in terms.items():
                totals[name] += term.item()
        return {"loss": sum(weights.get(name, 0.0) * total for name, total in totals.items()), **totals}

    @torch.inference_mode()
    def logits(self, batch: Sequence[Encoded]) -> list[list[float]]:
        """Of each solution, at its boundaries."""
        rows = _rows(batch).to(self._device)
        found = torch.full(rows.ids.shape, torch.nan)
        for piece in self._pieces(rows):
            found[piece.rows.cpu(), piece.columns] = piece.output.mean_logit.cpu()
        return [[float(found[row, end - 1]) for end in solution.boundaries] for row, solution in enumerate(batch)]

    def finish(self, logits: Sequence[Sequence[float]], labels: Sequence[Sequence[float | None]]) -> dict[str, float]:
        """Fits the temperature on validation steps; `logits` are of the model as it is."""
        flat, truths = labelled_steps(logits, labels)
        temperature = round(fit_temperature(flat, truths), 4)
        self.model.config = replace(self.model.config, temperature=temperature)
        return {"temperature": temperature}

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    @property
    def _device(self) -> torch.device:
        return self.model.embedding.weight.device

    def _pieces(self, rows: _Rows) -> Iterator[_Piece]:
        """Reads a batch piece by piece. The graph of a piece may go once it was yielded.

        The first piece of the completions shares its graph with the end of the prompts. What of the prompts lies
        further back than half a piece is read without one.
        """
        prompt_time, time = rows.prompts.shape[1], rows.ids.shape[1]
        lead = max(0, prompt_time - self.tbptt_tokens // 2)
        state = self.model.initial_state(len(rows.prompts))
        with torch.no_grad():
            for start in range(0, lead, self.tbptt_tokens):
                state = self._read(
                    rows.prompts, rows.prompt_lengths, start, min(lead, start + self.tbptt_tokens), state
                ).state
        state = self._read(rows.prompts, rows.prompt_lengths, lead, prompt_time, state).state[rows.prompt_of]
        room, start = self.tbptt_tokens - (prompt_time - lead), 0
        kept = torch.arange(len(rows.ids), device=rows.ids.device)
        while start < time:
            stop = min(time, start + room)
            reach = rows.lengths[kept] > start
            kept, state = kept[reach], state[reach]
            output = self._read(rows.ids[kept], rows.lengths[kept], start, stop, state)
            yield _Piece(rows=kept, columns=slice(start, stop), output=output)
            state, room, start = output.state.detach(), self.tbptt_tokens, stop

    def _read(self, ids: Tensor, lengths: Tensor, start: int, stop: int, state: Tensor) -> PRMOutput:
        output: PRMOutput = self.model(ids[:, start:stop], (lengths - start).clamp(0, stop - start), state)
        return output

    def _sums(self, rows: _Rows, piece: _Piece, last: Tensor) -> dict[str, Tensor]:
        """Each term's sum over a piece. `last` is brought up to date."""
        start, stop = piece.columns.start, piece.columns.stop
        logit, concentration = piece.output.mean_logit, piece.output.concentration
        step_labels = rows.step_labels[piece.rows, start:stop]
        known = ~step_labels.isnan()
        evidence = evidential_loss(logit[known], concentration[known], step_labels[known])

        following = rows.ids[piece.rows, start + 1 : stop + 1]  # the last one is read in the next piece
        lm_losses = F.cross_entropy(piece.output.lm_logits[:, : following.shape[1]].mT, following, reduction="none")

        row, column = rows.ends[piece.rows, start:stop].nonzero(as_tuple=True)
        at_ends = logit[row, column]
        opens = torch.ones_like(row, dtype=torch.bool)  # the first boundary of its row in this piece
        opens[1:] = row[1:] != row[:-1]
        previous = torch.where(opens, last[piece.rows[row]], at_ends.roll(1))
        closes = opens.roll(-1)
        last[piece.rows[row[closes]]] = at_ends[closes].detach()
        return {
            "boundary": boundary_loss(logit, step_labels),
            "token": boundary_loss(logit, rows.token_labels[piece.rows, start:stop]),
            "lm": (lm_losses * rows.lm_weights[piece.rows, start + 1 : stop + 1]).sum(),
            "evidence": evidence.sum(),
            "consistency": consistency_loss(at_ends, previous, ~previous.isnan()),
        }
