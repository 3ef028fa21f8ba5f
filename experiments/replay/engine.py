"""An engine that was asked in advance: policy, verifier, answers and grades, as a run recorded them.

Each rollout of a prompt draws the next of the problem's recorded samples, without replacement, in an order that depends
on the seed and the problem alone; so all strategies of a seed see the same samples, as they would in a run. `in_order`
draws them as they were recorded: then the first n are those that n alone would have drawn, because a sample's seed
depends on its number and not on how many there are. Of a prefix that the search has asked for before, its last token
alone is read again, as with a prefix cache. What was not recorded is an error and is never made up: a continuation of
anything but the beginning of a drawn sample, another temperature, an injected text.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from experiments.replay.recording import RecordedProblem, Recording, Sample
from orchestrator.core.confidence import ConfidenceFloor, GroupMeans
from orchestrator.core.errors import UserError
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Comparison, Problem, StateHandle
from orchestrator.core.protocols import Answers, Finish, Generation, ScoreRequest, Segment, Verdict
from orchestrator.core.search_events import Observer
from orchestrator.core.seeds import derive_seed
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.search import SearchRuntime
from orchestrator.session import SearchSession


def recorded_session(
    recording: Recording, answers: Answers, seed: int, observer: Observer | None = None, *, in_order: bool = False
) -> SearchSession:
    """The session of one search over the recording."""
    runtime = SearchRuntime(
        policy=RecordedPolicy(recording, seed, in_order=in_order),
        verifier=RecordedVerifier(recording),
        sampling=recording.sampling,
        answers=RecordedAnswers(recording, answers),
    )
    return runtime.session(seed, observer)


class RecordedPolicy:
    """Implements `Policy` for one search. Owner of what the search has drawn."""

    def __init__(self, recording: Recording, seed: int, *, in_order: bool = False) -> None:
        self.shape = ModelShape(
            weights_per_token=round(recording.policy_flops / 2), head_weights=0, num_layers=0, attention_width=0
        )
        longest = max(len(recorded.prompt_ids) for recorded in recording.problems)
        self.context_length = longest + recording.sampling.max_tokens
        self.thinking: ThinkingMarkers | None = None  # recorded texts are whole
        self._recording = recording
        self._seed = seed
        self._in_order = in_order
        self._left: list[Sample] | None = None  # the last is the next to draw; None: nothing is drawn yet
        self._drawn: list[Sample] = []
        self._continued: Counter[tuple[int, ...]] = Counter()  # how often each prefix was

    async def encode(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        if any(problem.messages for problem in problems):  # a recorded problem has none
            raise UserError("replay: only samples from the prompt were recorded, got a strategy that asks another one")
        return [self._recording.prompts[problem.id] for problem in problems]

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        raise UserError(f"replay: only samples from the prompt were recorded, got text to inject: {texts[0]!r}")

    def generate(self, requests: Sequence[Generation]) -> "RecordedStream":
        """A sample's text comes with its last segment: the texts of single steps were not recorded."""
        return RecordedStream([self._segments(request) for request in requests])

    def _segments(self, request: Generation) -> list[Segment]:
        recorded = self._recording[request.prefix_ids]
        sampling = self._recording.sampling
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            recorded_value, wanted = getattr(sampling, name), getattr(request, name)
            if recorded_value != wanted:
                raise UserError(
                    f"replay: recorded were samples of {name} {recorded_value:g}, got a request for {wanted:g}"
                )
        prefix = request.prefix_ids[len(recorded.prompt_ids) :]
        cached_tokens = len(request.prefix_ids) - 1 if self._drawn else 0
        sample = self._continue(prefix, recorded) if prefix else self._draw(recorded)
        if set(request.stop) != set(sampling.stop) or request.max_tokens < len(sample.token_ids) - len(prefix):
            raise UserError("replay: only whole samples were recorded, got a request with stop strings or a lower cap")
        if request.logprobs is not None and sample.logprobs is None:
            raise UserError("replay: no log-probabilities were recorded, got a strategy that wants them")
        if request.logprobs and sample.confidences is None:
            raise UserError(
                "replay: no confidence was recorded, got a strategy that wants it; wanted a run of self_consistency "
                "with weighted: true and weight: confidence"
            )
        # a sample that another cap cut shorter than max_tokens ended there for good, too
        full = sample.truncated and len(sample.token_ids) >= sampling.max_tokens
        segments, start = [], len(prefix)
        groups = None if request.floor is None else GroupMeans(request.floor.group_tokens)
        for step, end in enumerate(sample.ends):
            if end <= len(prefix):
                continue
            last = end == sample.ends[-1]
            finish = (
                (Finish.LENGTH if full else Finish.EOS) if last else Finish.BOUNDARY if request.until_step else None
            )
            text = sample.text if last else ""
            ids = sample.token_ids[start:end]
            segment = Segment(token_ids=ids, text=text, finish=finish, cached_tokens=cached_tokens)
            if request.logprobs is not None and sample.logprobs is not None:
                segment = replace(segment, logprob=sample.logprobs[step])
            if request.logprobs and sample.confidences is not None:
                segment = replace(segment, confidence=sample.confidences[step])
            if groups is not None and request.floor is not None:
                segment = _stopped(segment, groups, request.floor)
            segments.append(segment)
            if segment.finish is not None:
                break
            start = end
        return segments

    def _draw(self, recorded: RecordedProblem) -> Sample:
        if self._left is None:
            self._left = list(recorded.samples)
            if self._in_order:
                self._left.reverse()
            else:
                random.Random(derive_seed(self._seed, recorded.problem.id, ())).shuffle(self._left)
        if not self._left:
            raise UserError(
                f"replay: {recorded.problem.id} has {len(recorded.samples)} recorded samples, "
                "got a strategy that draws more"
            )
        self._drawn.append(self._left.pop())
        return self._drawn[-1]

    def _continue(self, prefix: tuple[int, ...], recorded: RecordedProblem) -> Sample:
        """Which of several drawn samples with that beginning is continued does not matter: they are exchangeable."""
        begun = [s for s in self._drawn if len(prefix) in s.ends[:-1] and s.token_ids[: len(prefix)] == prefix]
        turn = self._continued[prefix]
        if turn >= len(begun):
            raise UserError(
                f"replay: only samples from the prompt were recorded; {recorded.problem.id}: got a prefix to continue "
                f"{turn + 1} times that {len(begun)} drawn samples begin with"
            )
        self._continued[prefix] += 1
        return begun[turn]


def _stopped(segment: Segment, groups: GroupMeans, floor: ConfidenceFloor) -> Segment:
    """The segment, cut at the token with which its confidence falls below the floor. Of a part of a step nothing else
    was recorded."""
    tokens = () if segment.confidence is None else segment.confidence.tokens
    for number, confidence in enumerate(tokens, start=1):
        mean = groups.push(confidence)
        if mean is not None and mean < floor.least:
            ids = segment.token_ids[:number]
            return replace(segment, token_ids=ids, text="", logprob=None, confidence=None, finish=Finish.DOUBT)
    return segment


class RecordedStream:
    """Implements `GenerationStream`. A turn of the event loop stands for one token of each sequence, as in an engine's
    batch: what is written at the same time ends in the order of its length."""

    def __init__(self, plans: Sequence[Sequence[Segment]]) -> None:
        self._due = deque(_in_time(plans))
        self._now = 0

    def __aiter__(self) -> "RecordedStream":
        return self

    async def __anext__(self) -> tuple[int, Segment]:
        while self._due and self._now < self._due[0][0]:
            self._now += 1
            await asyncio.sleep(0)
        if not self._due:
            raise StopAsyncIteration
        _, index, segment = self._due.popleft()
        return index, segment

    def abort(self, indices: Sequence[int]) -> None:
        aborted = {index for _, index, _ in self._due if index in indices}
        ends = [(self._now, index, Segment(token_ids=(), text="", finish=Finish.ABORTED)) for index in sorted(aborted)]
        self._due = deque([*ends, *(due for due in self._due if due[1] not in aborted)])

    async def aclose(self) -> None:
        self._due.clear()


def _in_time(plans: Sequence[Sequence[Segment]]) -> list[tuple[int, int, Segment]]:
    """(when, index of the request, segment) in order; equal times in the order of the requests."""

    def timed() -> Iterator[tuple[int, int, Segment]]:
        for index, segments in enumerate(plans):
            ends = accumulate(len(segment.token_ids) for segment in segments)
            yield from ((end, index, segment) for end, segment in zip(ends, segments, strict=True))

    return sorted(timed(), key=lambda due: due[:2])


class RecordedVerifier:
    """Implements `Verifier`. Its states are empty: a handle only says how many tokens need not be read again."""

    state_bytes = 0
    scores_steps, reads_text, reads_tokens = True, False, True

    def __init__(self, recording: Recording) -> None:
        self.flops_per_token = recording.verifier_flops
        self._recording = recording

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        return [self._verdict(reading) for reading in readings]

    def _verdict(self, reading: ScoreRequest) -> Verdict:
        recorded = self._recording[reading.token_ids]
        prompt, size = len(recorded.prompt_ids), len(reading.token_ids)
        new_tokens = size - (reading.handle.num_tokens if reading.handle is not None else 0)
        flops = self._recording.verifier_flops * new_tokens
        scores = []
        for end in reading.boundaries:
            score = recorded.scores.get(reading.token_ids[prompt:end])
            if score is None and (reason := recorded.unjudged.get(reading.token_ids[prompt:end])) is not None:
                return Verdict(scores=(), handle=None, verifier_tokens=new_tokens, flops=flops, unjudged=reason)
            if score is None:
                raise UserError(
                    f"replay: {recorded.problem.id}: the step that ends after {end - prompt} tokens was not scored"
                )
            scores.append(score)
        return Verdict(
            scores=tuple(scores),
            handle=StateHandle(replica=0, epoch=0, key=f"{size}-{hash(reading.token_ids)}", num_tokens=size),
            verifier_tokens=new_tokens,
            flops=flops,
        )

    def release(self, handles: Sequence[StateHandle]) -> None:
        pass


class RecordedAnswers:
    """Implements `Answers`: found when the samples were recorded, compared with each other as the recorded run did."""

    def __init__(self, recording: Recording, answers: Answers) -> None:
        self.extract = recording.answers.__getitem__
        self.group, self.compare = answers.group, answers.compare


class RecordedGrader:
    """Ground truth as it was recorded."""

    def __init__(self, recording: Recording) -> None:
        self._grades = {
            (recorded.problem.id, sample.answer): Comparison(equal=sample.correct, reason=sample.undecided)
            for recorded in recording.problems
            for sample in recorded.samples
        }

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[Comparison]:
        return [self._grades[problem.id, answer] for answer in answers]
