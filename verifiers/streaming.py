"""Serves a StreamingPRM from carried states: reading a step costs that step's tokens only.

A plain class without Ray; a replica's actor hosts one. A call is read in micro-batches of similar length.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from orchestrator.core.nouns import Score
from verifiers.contract import Answer, HostSettings, Missing, Read, Run, StateBlob, Unreadable, VerifierInfo
from verifiers.state_store import StateStore
from verifiers.streaming_prm import StreamingPRM, beta_std

# What a pass through the model costs before its first token, in tokens: padding up to that beats another pass.
PASS_TOKENS = {"cpu": 64, "cuda": 2048}
PADDING_SHARE = 0.15  # and up to this share of the tokens it does not matter


def pack(lengths: Sequence[int], *, max_rows: int, max_tokens: int, pass_tokens: int) -> list[list[int]]:
    """Groups rows into micro-batches of similar lengths, each of at most `max_tokens` with its padding.

    A row longer than `max_tokens` gets a micro-batch of its own. Indices into `lengths`, longest first.
    """
    batches: list[list[int]] = []
    num_tokens = 0  # of the last micro-batch, without its padding
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and len(batches[-1]) < max_rows:
            padded = (len(batches[-1]) + 1) * lengths[batches[-1][0]]
            padding = padded - num_tokens - lengths[index]
            if padded <= max_tokens and padding <= max(pass_tokens, PADDING_SHARE * padded):
                batches[-1].append(index)
                num_tokens += lengths[index]
                continue
        batches.append([index])
        num_tokens = lengths[index]
    return batches


class StreamingHost:
    """Owns a StreamingPRM and the states of the trajectories that it reads."""

    def __init__(
        self, name: str, model: StreamingPRM, *, slots: int, host_slots: int, batch_tokens: int, device: str = "cpu"
    ) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.batch_tokens = batch_tokens
        self.store = StateStore(
            num_slots=slots,
            state_numel=model.state_numel,
            host_slots=host_slots,
            model_hash=model.model_hash,
            device=device,
        )
        self.info = VerifierInfo(
            name=name,
            model_hash=model.model_hash,
            tokenizer_fingerprint=model.config.tokenizer_fingerprint,
            state_bytes=4 * model.state_numel,
            flops_per_token=float(model.config.flops_per_token),
        )

    @classmethod
    def load(cls, settings: HostSettings) -> "StreamingHost":
        """Raises ValueError when the checkpoint can't be loaded."""
        host = cls(
            settings.name,
            StreamingPRM.from_pretrained(settings.model),
            slots=settings.slots,
            host_slots=settings.host_slots,
            batch_tokens=settings.batch_tokens,
            device=settings.device,
        )
        if settings.device != "cpu":  # kernels are compiled and tuned when first called: not under a call's deadline
            host.read([Run(key="first", token_ids=(0,))])
            host.release(["first"])
        return host

    @torch.inference_mode()
    def read(self, runs: Sequence[Run]) -> list[Answer]:
        """Reads the runs, a run after the one whose state it starts from. Answers in the order of `runs`."""
        answers: dict[int, Answer] = {}
        children = Counter(run.parent for run in runs if run.parent is not None)
        freed = {run.parent for run in runs if run.parent is not None and not run.keep_parent}
        waiting = dict(enumerate(runs))
        while waiting:
            to_come = {run.key for run in waiting.values()}
            ready = {run.key: i for i, run in reversed(waiting.items()) if run.parent not in to_come}
            assert ready, "runs that start from each other's states"
            readable = []
            for i in ready.values():
                if (answer := self._without_reading(waiting.pop(i))) is not None:
                    answers[i] = answer
                else:
                    readable.append(i)
            batches = pack(
                [len(runs[i].token_ids) for i in readable],
                max_rows=self.store.num_slots,
                max_tokens=self.batch_tokens,
                pass_tokens=PASS_TOKENS[self.device],
            )
            for batch in batches:
                held: list[int] = []
                for i in (readable[row] for row in batch):
                    if self._held(runs[i]):  # an earlier micro-batch may have pushed the parent out
                        held.append(i)
                    else:
                        answers[i] = Missing()
                if not held:
                    continue
                states = self._parents([runs[i] for i in held])
                parents = Counter(parent for i in held if (parent := runs[i].parent) is not None)
                children.subtract(parents)
                self.store.free([parent for parent in parents if parent in freed and children[parent] == 0])
                answers.update(zip(held, self._advance([runs[i] for i in held], states), strict=True))
        return [answers[i] for i in range(len(runs))]

    def release(self, keys: Sequence[str]) -> None:
        """Forgets states; unknown keys are ignored."""
        self.store.free(keys)

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        """Copies of states; None for one that is not held."""
        return [self.store.export(key) if key in self.store else None for key in keys]

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        """Holds copies under `keys`, skipping None. Raises ValueError for a state of another model."""
        for key, blob in zip(keys, blobs, strict=True):
            if blob is not None:
                self.store.import_(key, blob)

    def _held(self, run: Run) -> bool:
        """Whether the state that the run starts from is at hand, and is the one meant."""
        return run.parent is None or (
            run.parent in self.store and self.store.num_tokens(run.parent) == run.parent_tokens
        )

    def _without_reading(self, run: Run) -> Answer | None:
        """The answer to a run that need not or can't be read."""
        if not run.boundaries and run.key in self.store:
            return Read(scores=(), tokens_read=0, flops=0.0)
        vocab_size = self.model.config.vocab_size
        if run.token_ids and not 0 <= min(run.token_ids) <= max(run.token_ids) < vocab_size:
            wrong = next(token for token in run.token_ids if not 0 <= token < vocab_size)
            return Unreadable(reason=f"token id {wrong} is outside the verifier's vocabulary of {vocab_size}")
        return None

    def _parents(self, runs: Sequence[Run]) -> Tensor:
        """(len(runs), state_numel): the states that the runs start from."""
        rows = [row for row, run in enumerate(runs) if run.parent is not None]
        held = self.store.get([run.parent for run in runs if run.parent is not None])
        if len(rows) == len(runs):
            return held
        states = self.model.initial_state(len(runs)).to(self.device, torch.float32)
        return states.index_copy_(0, torch.tensor(rows, dtype=torch.int64, device=self.device), held)

    def _advance(self, runs: Sequence[Run], states: Tensor) -> list[Answer]:
        """One micro-batch: reads the tokens, keeps the new states, reads the scores at the boundaries."""
        lengths = torch.tensor([len(run.token_ids) for run in runs])
        tokens = np.zeros((len(runs), max(1, int(lengths.max()))), dtype=np.int64)
        for row, run in enumerate(runs):
            tokens[row, : len(run.token_ids)] = run.token_ids
        ids, lengths = torch.from_numpy(tokens).to(self.device), lengths.to(self.device)
        logits, concentrations = [], []
        stride = max(1, self.batch_tokens // len(runs))  # a long row is read in pieces, its state carried over
        for start in range(0, ids.shape[1], stride):
            output = self.model(ids[:, start : start + stride], (lengths - start).clamp(0, stride), states)
            logits.append(output.mean_logit)
            concentrations.append(output.concentration)
            states = output.state
        where = [(row, count - 1) for row, run in enumerate(runs) for count in run.boundaries]
        rows, columns = torch.tensor(where, dtype=torch.int64, device=self.device).reshape(-1, 2).unbind(1)
        mean = torch.cat(logits, dim=1)[rows, columns].float().sigmoid()
        std = beta_std(mean, torch.cat(concentrations, dim=1)[rows, columns].float())
        scores = iter(zip(mean.tolist(), std.tolist(), strict=True))
        finite_states = states.sum(dim=1).isfinite().tolist()  # one pass; what is not finite makes the sum so

        answers: list[Answer] = []
        for run, finite_state in zip(runs, finite_states, strict=True):
            read = [next(scores) for _ in run.boundaries]
            bad = next(((m, s) for m, s in read if not (np.isfinite(m) and np.isfinite(s))), None)
            tokens_read = len(run.token_ids)
            flops = tokens_read * self.info.flops_per_token
            if bad is not None:
                reason = f"the score is not a finite number (mean {bad[0]}, std {bad[1]})"
                answers.append(Unreadable(reason=reason, tokens_read=tokens_read, flops=flops))
            elif not finite_state:
                reason = "the model's state is not finite"
                answers.append(Unreadable(reason=reason, tokens_read=tokens_read, flops=flops))
            else:
                scored = tuple(Score(mean=m, std=s) for m, s in read)
                answers.append(Read(scores=scored, tokens_read=tokens_read, flops=flops))
        good = [row for row, answer in enumerate(answers) if isinstance(answer, Read)]
        covered = [runs[row].parent_tokens + len(runs[row].token_ids) for row in good]
        kept = states if len(good) == len(runs) else states[torch.tensor(good, dtype=torch.int64, device=self.device)]
        self.store.put([runs[row].key for row in good], kept.float(), covered)
        return answers
