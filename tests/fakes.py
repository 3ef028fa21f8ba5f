"""A scripted policy and a table verifier, for the pure logic of strategies and sessions. A token is a character."""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.core.account import Account
from orchestrator.core.alternatives import ReadToken
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.confidence import GroupMeans, TokenConfidence, step_confidence
from orchestrator.core.flops import ModelShape
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem, Score, Selection, StateHandle
from orchestrator.core.protocols import (
    Answers,
    Finish,
    Generation,
    Sampling,
    ScoreRequest,
    Segment,
    Solution,
    Verdict,
    Verifier,
)
from orchestrator.core.search_events import Observer
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.session import SearchSession

EOS = 0
SHAPE = ModelShape(weights_per_token=1, head_weights=0, num_layers=0, attention_width=0)


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def text_of(token_ids: Sequence[int]) -> str:
    return "".join(chr(token) for token in token_ids if token != EOS)


class ScriptedPolicy:
    """Continues a text with what its script lists for it, in turn, and the end of sequence.

    The key is the longest one that the text so far ends with.
    """

    shape = SHAPE

    def __init__(self, script: Mapping[str, Sequence[str]], context_length: int = 10_000) -> None:
        self.script = script
        self.context_length = context_length
        self.thinking: ThinkingMarkers | None = None
        self.requests: list[Generation] = []
        self.aborted = 0
        self.gate: asyncio.Event | None = None  # when set by a test, each segment waits for it
        self.ended = asyncio.Event()
        self.fails_after: int | None = None  # segments of one call
        self._turns: dict[str, int] = defaultdict(int)

    async def encode(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        return [
            problem.raw if isinstance(problem.raw, tuple) else ids(problem.messages[-1].content) for problem in problems
        ]

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [ids(text) for text in texts]

    def generate(self, requests: Sequence[Generation]) -> "ScriptedStream":
        self.requests += requests
        plans = [self._plan(request) for request in requests]
        return ScriptedStream(
            self,
            [_as_written(plan) if request.streams else plan for plan, request in zip(plans, requests, strict=True)],
        )

    def _continuation(self, text: str, request: Generation) -> str:
        key = max((key for key in self.script if text.endswith(key)), key=len)
        continuation = self.script[key][self._turns[key] % len(self.script[key])]
        self._turns[key] += 1
        return continuation

    def _plan(self, request: Generation) -> list[Segment]:
        if request.reads is not None:
            return [Segment(token_ids=(EOS,), text="", finish=Finish.LENGTH, read=_read_back(request))]
        continuation = self._continuation(text_of(request.prefix_ids), request)
        cut = min((continuation.find(s) for s in request.stop if s in continuation), default=None)
        marker = next((s for s in request.stop if cut is not None and continuation.startswith(s, cut)), "")
        tokens = ids(continuation if cut is None else continuation[:cut])
        finish = Finish.EOS if cut is None else Finish.STOP
        if cut is None:
            tokens += (EOS,)
        if len(tokens + ids(marker)) > request.max_tokens:
            tokens, finish, marker = (tokens + ids(marker))[: request.max_tokens], Finish.LENGTH, ""
        pieces = _steps(tokens)
        if marker:
            pieces.append(ids(marker))
        if request.until_step and len(pieces) > 1 + request.speculate:
            pieces, finish = pieces[: 1 + request.speculate], Finish.BOUNDARY
        segments = [_segment(piece, request) for piece in pieces]
        return _above_floor([*segments[:-1], replace(segments[-1], finish=finish)], request)


def _as_written(segments: Sequence[Segment]) -> list[Segment]:
    """Each character of a step before the step, but for the last one of it; of a stop text nothing."""
    written: list[Segment] = []
    for segment in segments:
        if segment.finish is not Finish.STOP:
            early = Segment(token_ids=(), text="", thinking=segment.thinking, early=0)
            written += [replace(early, text=char, early=begin) for begin, char in enumerate(segment.text[:-1])]
        written.append(segment)
    return written


def confidence_of(token: int) -> TokenConfidence:
    """The policy is surer of a character the earlier it comes: of a space than of a digit, of that than of a letter."""
    return TokenConfidence(float(128 - token), token / 128, 10.0 - token / 128)


def _read_back(request: Generation) -> tuple[ReadToken, ...]:
    """Each token is what the policy would have written, and the one after it in the alphabet is next."""
    assert request.reads is not None
    return tuple(
        ReadToken(
            text="<eos>" if token == EOS else chr(token),
            special=token == EOS,
            logprob=None if index == 0 else -token / 1000,
            likeliest=() if index == 0 else ((chr(token), -token / 1000), (chr(token + 1), -9.0))[: request.reads],
        )
        for index, token in enumerate(request.prefix_ids)
    )[request.reads_from :]


def _segment(piece: tuple[int, ...], request: Generation) -> Segment:
    return Segment(
        token_ids=piece,
        text=text_of(piece),
        logprob=None if request.logprobs is None else -float(sum(piece)),
        confidence=step_confidence([confidence_of(token) for token in piece]) if request.logprobs else None,
    )


def _above_floor(segments: list[Segment], request: Generation) -> list[Segment]:
    """Ends them at the token with which their confidence falls below the floor."""
    if request.floor is None:
        return segments
    groups = GroupMeans(request.floor.group_tokens)
    for index, segment in enumerate(segments):
        for number, token in enumerate(segment.token_ids, start=1):
            mean = groups.push(confidence_of(token).confidence)
            if mean is not None and mean < request.floor.least:
                piece = segment.token_ids[:number]
                return [*segments[:index], replace(_segment(piece, request), finish=Finish.DOUBT)]
    return segments


class CoinPolicy(ScriptedPolicy):
    """Draws up to three letters, each a step, from the request's seed; which are likely depends on the one before."""

    def __init__(self) -> None:
        super().__init__({})

    def _continuation(self, text: str, request: Generation) -> str:
        rng, last, drawn = random.Random(request.seed), text.rstrip()[-1:], ""
        for _ in range(3 - text.count("\n\n")):
            last = rng.choices("abc", weights=[5, 3, 2] if last == "a" else [2, 5, 3])[0]
            drawn += last + "\n\n"
        return drawn


class ThinkingPolicy(ScriptedPolicy):
    """Thinks up to the step that ends with `</think>`, where its script has one."""

    def __init__(self, script: Mapping[str, Sequence[str]], context_length: int = 10_000) -> None:
        super().__init__(script, context_length)
        self.thinking = ThinkingMarkers(start="<think>", end="</think>")
        self.overshoot = 0  # tokens sampled past the end of the thinking, and thrown away

    def _plan(self, request: Generation) -> list[Segment]:
        text, marked = text_of(request.prefix_ids[request.num_prompt :]), []
        for segment in super()._plan(request):
            thinking = (text + segment.text).startswith("<think>") and "</think>" not in text
            marked.append(replace(segment, thinking=thinking))
            text += segment.text
        return _thought(marked, request, self.overshoot)


def _thought(segments: list[Segment], request: Generation, overshoot: int) -> list[Segment]:
    """Ends them where the thinking has had its tokens."""
    left = request.max_thinking
    if left is None:
        return segments
    for index, segment in enumerate(segments):
        if not segment.thinking or ("</think>" in segment.text and len(segment.token_ids) <= left):
            return segments
        if len(segment.token_ids) >= left:
            ids = segment.token_ids[:left]
            return [*segments[:index], _ended(segment, ids, overshoot)]
        left -= len(segment.token_ids)
    return segments


def _ended(segment: Segment, ids: tuple[int, ...], overshoot: int) -> Segment:
    return replace(segment, token_ids=ids, text=text_of(ids), finish=Finish.THOUGHT, discarded_tokens=overshoot)


class ScriptedStream:
    """One segment of each open sequence in turn."""

    def __init__(self, policy: ScriptedPolicy, plans: list[list[Segment]]) -> None:
        self.policy = policy
        self.plans = dict(enumerate(plans))
        self.ready: list[tuple[int, Segment]] = []
        self.turn = iter(self._turns())
        self.num_given = 0
        self.gate: asyncio.Event | None = None

    def _turns(self) -> Iterator[tuple[int, Segment]]:
        while self.plans:
            for index in sorted(self.plans):
                if index in self.plans:
                    segment = self.plans[index].pop(0)
                    if not self.plans[index]:
                        del self.plans[index]
                    yield index, segment

    def __aiter__(self) -> "ScriptedStream":
        return self

    async def __anext__(self) -> tuple[int, Segment]:
        for gate in (self.policy.gate, self.gate):
            if gate is not None:
                await gate.wait()
        await asyncio.sleep(0)
        if self.policy.fails_after is not None and self.num_given == self.policy.fails_after:
            raise RuntimeError("a scripted failure")
        self.num_given += 1
        if self.ready:
            return self.ready.pop(0)
        for item in self.turn:
            return item
        self.policy.ended.set()
        raise StopAsyncIteration

    def abort(self, indices: Sequence[int]) -> None:
        for index in indices:
            if self.plans.pop(index, None):
                self.policy.aborted += 1
                self.ready.append((index, Segment(token_ids=(), text="", finish=Finish.ABORTED)))

    async def aclose(self) -> None:
        self.policy.aborted += len(self.plans)
        self.plans.clear()
        self.policy.ended.set()


def _steps(tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
    steps: list[tuple[int, ...]] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        if tokens[end - 2 : end] == ids("\n\n") or end == len(tokens):
            steps.append(tokens[start:end])
            start = end
    return steps


class TableVerifier:
    """Scores a prefix by a function of its text. Its state is the text; it reads what its handle does not cover."""

    flops_per_token = 1.0
    state_bytes = 10
    scores_steps, reads_text, reads_tokens = True, False, True

    def __init__(self, judge: Callable[[str], float]) -> None:
        self.judge = judge
        self.states: dict[str, str] = {}
        self._numbers = itertools.count()
        self.batches: list[list[ScoreRequest]] = []
        self.started = asyncio.Event()  # set at the first reading with a boundary
        self.gate: asyncio.Event | None = None

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        self.batches.append(list(readings))
        if any(reading.boundaries for reading in readings):
            self.started.set()
            if self.gate is not None:
                await self.gate.wait()
        await asyncio.sleep(0)
        return [self._verdict(reading) for reading in readings]

    def _verdict(self, reading: ScoreRequest) -> Verdict:
        covered = 0
        if reading.handle is not None:
            covered = reading.handle.num_tokens
            assert self.states[reading.handle.key] == text_of(reading.token_ids[:covered]), "a handle of another text"
            if not reading.keep_parent:
                del self.states[reading.handle.key]
        key = f"state-{next(self._numbers)}"
        self.states[key] = text_of(reading.token_ids)
        return Verdict(
            scores=tuple(Score(mean=self.judge(text_of(reading.token_ids[:end]))) for end in reading.boundaries),
            handle=StateHandle(replica=0, epoch=0, key=key, num_tokens=len(reading.token_ids)),
            verifier_tokens=len(reading.token_ids) - covered,
        )

    def release(self, handles: Sequence[StateHandle]) -> None:
        for handle in handles:
            self.states.pop(handle.key, None)


class TextVerifier:
    """Scores what it reads as text by a function of it (None: it can't judge that), and remembers what it was asked.
    It carries no state."""

    flops_per_token = 0.0
    state_bytes = 0
    reads_text, reads_tokens = True, False

    def __init__(self, judge: Callable[[str], float | None], *, scores_steps: bool) -> None:
        self.judge, self.scores_steps = judge, scores_steps
        self.asked: list[Solution] = []

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        await asyncio.sleep(0)
        return [self._verdict(reading.solution) for reading in readings]

    def _verdict(self, solution: Solution | None) -> Verdict:
        assert solution is not None, "a verifier that reads text was given none"
        self.asked.append(solution)
        means = [self.judge("".join(solution.steps[: index + 1])) for index in solution.asked]
        scores = tuple(Score(mean=mean) for mean in means if mean is not None)
        unjudged = None if len(scores) == len(means) else "a riddle"
        scores = scores if unjudged is None else ()
        return Verdict(scores=scores, handle=None, verifier_tokens=7, flops=70.0, unjudged=unjudged)

    def release(self, handles: Sequence[StateHandle]) -> None:
        assert not handles


class PlainAnswers(ExactAnswers):
    """What follows `Answer: `, as it is."""

    def __init__(self) -> None:
        self.extract = lambda text: text.rsplit("Answer: ", 1)[1].strip() if "Answer: " in text else None


ANSWERS = PlainAnswers()


def open_session(
    policy: ScriptedPolicy,
    verifier: Verifier | None = None,
    *,
    max_tokens: int = 1000,
    stop: Sequence[str] = (),
    max_thinking_tokens: int | None = None,
    budget: Budget | int | None = None,
    speculation: int = 0,
    run_account: Account | None = None,
    selection: Selection = Selection.SCORE,
    answers: Answers = ANSWERS,
    observer: Observer | None = None,
    streams: bool = False,
) -> SearchSession:
    return SearchSession(
        policy=policy,
        verifier=verifier,
        sampling=Sampling(max_tokens=max_tokens, stop=list(stop), max_thinking_tokens=max_thinking_tokens),
        budget=budget if isinstance(budget, Budget) else Budget(policy_tokens=budget),
        run_seed=0,
        answers=answers,
        speculation=speculation,
        run_account=run_account,
        selection=selection,
        observer=observer,
        streams=streams,
    )


def problem(prompt: str = "Q:") -> Problem:
    return Problem.from_prompt("p1", prompt)
