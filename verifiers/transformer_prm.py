"""Serves a transformer that judges, with a KV cache for each trajectory: a step costs its own tokens, and attention.

A run is written out and tokenised as a whole; of its tokens those are read that no held trajectory of the same problem
begins with, its parent's first of all. A plain class without Ray; a replica's actor hosts one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from orchestrator.core.nouns import Score
from verifiers.contract import Answer, HostSettings, Read, Run, StateBlob, Unreadable, VerifierInfo
from verifiers.formats import format_of
from verifiers.kv_store import Entry, KVStore, Segment
from verifiers.reward_models import RewardModel, context_of, load_reward_model
from verifiers.solution_reader import MarkedTokens, SolutionReader
from verifiers.streaming import PASS_TOKENS, pack
from verifiers.transformer_options import SeparatorOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A run, and what is known before anything of it is read."""

    index: int  # of the run
    key: str
    family: str
    parent: str | None
    tokens: MarkedTokens
    ids: np.ndarray[tuple[int], np.dtype[np.int64]]
    start: int = 0  # how many tokens need not be read
    past: tuple[tuple[Segment, int], ...] = ()  # of those
    known: Mapping[int, float] = field(default_factory=dict)  # scores that were read there

    @property
    def num_new(self) -> int:
        return len(self.ids) - self.start


class TransformerHost:
    """Owns a RewardModel, and the keys and values of the trajectories that it reads."""

    def __init__(
        self,
        name: str,
        model: RewardModel,
        reader: SolutionReader,
        *,
        kv_tokens: int,
        batch_tokens: int,
        device: str = "cpu",
    ) -> None:
        """`kv_tokens`: of how many tokens keys and values are kept; `batch_tokens`: of a micro-batch, prefixes and
        padding included."""
        self.model, self.reader, self.device, self.batch_tokens = model, reader, device, batch_tokens
        self.store = KVStore(max_tokens=kv_tokens)
        self.info = VerifierInfo(
            name=name, model_hash=model.model_hash, tokenizer_fingerprint="", state_bytes=0, flops_per_token=0.0
        )

    @classmethod
    def load(cls, settings: HostSettings) -> "TransformerHost":
        """Raises ValueError when the checkpoint can't be loaded, or its tokenizer does not fit the format."""
        options = settings.options
        separator = {"separator": options.separator} if isinstance(options, SeparatorOptions) else {}
        format = format_of(settings.name, **separator)
        context_length, vocab_size = context_of(settings.model)
        reader = SolutionReader.load(settings.model, format, context_length=context_length, vocab_size=vocab_size)
        model = load_reward_model(
            settings.model,
            num_logits=format.num_logits,
            word_ids=reader.word_ids(),
            device=settings.device,
        )
        kv_tokens = int(options.kv_cache_gib * 2**30) // model.kv_bytes_per_token
        return cls(
            settings.name,
            model,
            reader,
            kv_tokens=kv_tokens,
            batch_tokens=settings.batch_tokens,
            device=settings.device,
        )

    @torch.inference_mode()
    def read(self, runs: Sequence[Run]) -> list[Answer]:
        """Answers in the order of `runs`."""
        answers: dict[int, Answer] = {}
        jobs = []
        for index, run in enumerate(runs):
            job = self._job(index, run)
            if isinstance(job, _Job):
                jobs.append(job)
            else:
                answers[index] = job
        first, rest = self._firsts(jobs)
        for wave in (first, rest):
            wave = [self._with_prefix(job) for job in wave]
            for alike in self._packed(wave, [len(job.ids) for job in wave]):  # bounds the keys and values
                for batch in self._packed(alike, [job.num_new for job in alike]):  # and what is computed
                    answers.update(self._advance(batch))
        self.store.free([run.parent for run in runs if run.parent is not None and not run.keep_parent])
        return [answers[index] for index in range(len(runs))]

    def release(self, keys: Sequence[str]) -> None:
        """Forgets trajectories; unknown keys are ignored."""
        self.store.free(keys)

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        """Nothing: keys and values grow with the text, and are read again elsewhere."""
        return [None for _ in keys]

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        """Raises ValueError: no such state exists."""
        if any(blob is not None for blob in blobs):
            raise ValueError(f"verifier state refused: {self.info.name} carries none that moves")

    def _job(self, index: int, run: Run) -> _Job | Answer:
        """What to read, or the answer to a run that need not or can't be read."""
        assert run.solution is not None, "a verifier that reads text is given it"
        if not run.solution.asked:
            return Read(scores=(), tokens_read=0, flops=0.0)
        try:
            tokens = self.reader.read(run.solution)
        except ValueError as error:
            return Unreadable(reason=str(error))
        return _Job(
            index=index,
            key=run.key,
            family=run.solution.problem.id,
            parent=run.parent,
            tokens=tokens,
            ids=np.array(tokens.ids, dtype=np.int64),
        )

    def _firsts(self, jobs: Sequence[_Job]) -> tuple[list[_Job], list[_Job]]:
        """Of the jobs that would begin from nothing, one for each problem goes first, so that its prompt is read once
        and not by each."""
        first, rest = list[_Job](), list[_Job]()
        begun = set[str]()
        for job in jobs:
            _, shared = self.store.nearest(job.family, job.ids, job.parent)
            (first if shared or job.family not in begun else rest).append(job)
            begun.add(job.family)
        return first, rest

    def _with_prefix(self, job: _Job) -> _Job:
        """The job with what is held of its tokens, up to the first place whose score was asked for and never read."""
        entry, shared = self.store.nearest(job.family, job.ids, job.parent)
        if entry is None:
            return job
        start = min([shared, *(place for place in job.tokens.asked if place not in entry.scores)])
        known = {place: score for place, score in entry.scores.items() if place < start}
        return replace(job, start=start, past=entry.prefix(start), known=known)

    def _packed(self, jobs: Sequence[_Job], lengths: Sequence[int]) -> list[list[_Job]]:
        """Micro-batches of jobs whose lengths are alike."""
        batches = pack(lengths, max_rows=len(jobs), max_tokens=self.batch_tokens, pass_tokens=PASS_TOKENS[self.device])
        return [[jobs[row] for row in batch] for batch in batches]

    def _advance(self, jobs: Sequence[_Job]) -> dict[int, Answer]:
        """One micro-batch: reads what is new, keeps keys and values, reads the scores. Answers by run."""
        unread = [job for job in jobs if job.num_new]
        segments: dict[int, Segment] = {}
        places = {job.index: [place for place in job.tokens.places if place >= job.start] for job in unread}
        scores: Iterator[float] = iter(())
        if unread:
            hidden, kv = self._forward(unread)
            where = [(row, place - job.start) for row, job in enumerate(unread) for place in places[job.index]]
            rows, columns = torch.tensor(where, device=self.device).unbind(1)
            beliefs = self.model.logits(hidden[rows, columns]).tolist()
            scores = iter([self.reader.format.belief(logits) for logits in beliefs])
            segments = {job.index: segment for job, segment in zip(unread, kv, strict=True)}
        answers: dict[int, Answer] = {}
        for job in jobs:
            new = {place: next(scores) for place in places.get(job.index, ())}
            read = {**job.known, **new}
            bad = next((score for score in new.values() if not np.isfinite(score)), None)
            flops = self.model.shape.flops(new_tokens=job.num_new, context_tokens=job.start, logits=len(new))
            if bad is not None:
                reason = f"the score is not a finite number ({bad})"
                answers[job.index] = Unreadable(reason=reason, tokens_read=job.num_new, flops=flops)
                continue
            parts = job.past + (((segments[job.index], job.num_new),) if job.num_new else ())
            self.store.put(job.key, Entry(family=job.family, ids=job.ids, scores=read, parts=parts))
            answers[job.index] = Read(
                scores=tuple(Score(mean=read[place]) for place in job.tokens.asked),
                tokens_read=job.num_new,
                flops=flops,
            )
        return answers

    def _forward(self, jobs: Sequence[_Job]) -> tuple[Tensor, list[Segment]]:
        """Hidden states of the new tokens (jobs, new, hidden), and their keys and values.

        Rows are: padding, the tokens held, the new ones, padding.
        """
        past, new = max(job.start for job in jobs), max(job.num_new for job in jobs)
        ids = np.zeros((len(jobs), new), dtype=np.int64)
        mask = np.zeros((len(jobs), past + new), dtype=np.int64)
        for row, job in enumerate(jobs):
            ids[row, : job.num_new] = job.ids[job.start :]
            mask[row, past - job.start : past + job.num_new] = 1
        starts = torch.tensor([job.start for job in jobs], device=self.device)
        last = self.model.context_length - 1  # of padding too: some models look positions up
        output = self.model.backbone(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=torch.from_numpy(mask).to(self.device),
            position_ids=(starts[:, None] + torch.arange(new, device=self.device)).clamp(max=last),
            past_key_values=self._gather(jobs, past),
            use_cache=True,
        )
        layers = output.past_key_values.layers
        segments = []
        for row, job in enumerate(jobs):
            ours = slice(past, past + job.num_new)
            kept = [tensor[row, :, ours] for layer in layers for tensor in (layer.keys, layer.values)]
            segments.append(Segment(torch.stack(kept)))
        return output.last_hidden_state, segments

    def _gather(self, jobs: Sequence[_Job], past: int) -> DynamicCache:
        """A cache with copies of what is held, each row ending at `past`."""
        cache = DynamicCache()
        if not past:
            return cache
        some = next(segment.kv for job in jobs for segment, _ in job.past)
        numel, heads, _, head_dim = some.shape
        held = some.new_zeros(numel, len(jobs), heads, past, head_dim)
        for row, job in enumerate(jobs):
            at = past - job.start
            for segment, used in job.past:
                held[:, row, :, at : at + used] = segment.kv[:, :, :used]
                at += used
        for layer in range(numel // 2):
            cache.update(held[2 * layer], held[2 * layer + 1], layer)
        return cache
