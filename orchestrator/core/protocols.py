"""The roles. An implementation just has the methods; nothing is registered or inherited.

`Policy` and `Verifier` are what a session needs of the two pools. `Session` is what a strategy needs of the runtime.
Batch is the only shape: a sequence in, the same order out.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

from orchestrator.core.alternatives import Alternatives, ReadToken
from orchestrator.core.confidence import ConfidenceFloor, StepConfidence
from orchestrator.core.flops import ModelShape
from orchestrator.core.ledger import Ledger, Remaining
from orchestrator.core.nouns import Comparison, Problem, Score, SearchResult, Selection, StateHandle, Trajectory
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.core.tools import CallingReply, Reply, Tools
from orchestrator.core.values import numerous


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. `max_tokens` caps each trajectory, injected tokens included."""

    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0  # the likeliest tokens that may be drawn; 0: any
    min_p: float = 0.0  # least probability of a token, as a share of the likeliest one's (arXiv 2407.01082)
    repetition_penalty: float = 1.0  # above 1: tokens that were there before are less likely (arXiv 1909.05858)
    stop: list[str] = field(default_factory=list)  # a trajectory ends before the first of these texts
    max_tokens: int = 1024
    max_thinking_tokens: int | None = None  # of each trajectory; then its thinking is ended for it

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"sampling: temperature must be >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling: top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"sampling: top_k must be >= 0 (0: any token), got {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"sampling: min_p must be in [0, 1], got {self.min_p}")
        if not 0 < self.repetition_penalty <= 2:
            raise ValueError(f"sampling: repetition_penalty must be in (0, 2], got {self.repetition_penalty}")
        if not all(self.stop):
            raise ValueError(f"sampling: stop must be non-empty texts, got {self.stop}")
        if self.max_tokens < 1:
            raise ValueError(f"sampling: max_tokens must be >= 1, got {self.max_tokens}")
        if self.max_thinking_tokens is not None and self.max_thinking_tokens < 1:
            raise ValueError(f"sampling: max_thinking_tokens must be >= 1, got {self.max_thinking_tokens}")

    def generation(self, *, temperature: float | None, stop: Sequence[str] = (), **how: Any) -> "Generation":
        """A request for tokens that are drawn so, but for another temperature if one is given, and `how` says what."""
        return Generation(
            prefix_ids=(),
            seed=0,
            temperature=self.temperature if temperature is None else temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop=(*self.stop, *stop),
            **how,
        )

    def stopped_at(self, before: str, text: str) -> int | None:
        """Where in `text`, which comes after `before`, the first stop text begins that ends in it: a number below 0
        where it begins so many characters before. None where there is none."""
        whole = before + text
        starts = ((string, max(0, len(before) - len(string) + 1)) for string in self.stop)
        found = [at - len(before) for string, start in starts if (at := whole.find(string, start)) >= 0]
        return min(found, default=None)

    def seen(self, text: str) -> str:
        """The end of the text, as far as a stop text may have begun in it."""
        reach = max(map(len, self.stop), default=1) - 1
        return text[-reach:] if reach else ""


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One sequence to continue. `prefix_ids` is prompt and completion so far; tokens are drawn with `seed`."""

    prefix_ids: tuple[int, ...]
    num_prompt: int | None = None  # of them, those of the prompt; None: all
    max_tokens: int
    seed: int
    temperature: float
    top_p: float
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    until_step: bool = False  # stop at the next step boundary
    speculate: int = 0  # with `until_step`: write on for up to so many more steps while the engine has room to spare
    logprobs: int | None = None  # of the sampled tokens, and of so many likeliest ones; None: not even of these
    floor: ConfidenceFloor | None = None  # stop below it; needs `logprobs` of 1 or more
    streams: bool = False  # tell the text of a step while it is written, too
    eager: bool = True  # steps are wanted as soon as they end; False: nobody looks before the sequence does
    stop: tuple[str, ...] = ()  # stop where the decoded text contains one of these
    seen: str = ""  # the end of the completion so far, in which one of them may have begun
    max_thinking: int | None = None  # stop after so many tokens of thinking
    words: tuple[str, ...] = ()  # where one may begin, tell the likeliest tokens; needs `logprobs` of 1 or more
    reads: int | None = None  # tell the log-probabilities of the prefix, and of so many likeliest tokens at each place
    reads_from: int = 0  # tokens of the prefix of which that is not told
    json_schema: str | None = None  # JSON: what is written from the prefix on must fit it

    def __post_init__(self) -> None:
        if (self.floor is not None or self.words) and not self.logprobs:
            raise ValueError(f"generation: a floor, and words, need logprobs >= 1, got {self.logprobs}")


class Finish(StrEnum):
    """Why a sequence stopped."""

    EOS = "eos"
    LENGTH = "length"
    BOUNDARY = "boundary"  # at a step boundary, as asked
    STOP = "stop"  # at a stop string, as asked
    THOUGHT = "thought"  # at `max_thinking`, as asked
    DOUBT = "doubt"  # below the `floor` of its confidence, as asked
    ABORTED = "aborted"  # by the caller


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A finished step of a sequence (or its unfinished tail), as soon as its last token is known.

    A stop string is a segment of its own: whole tokens, from the one in which it begins to the one that completes it.
    With `Generation.streams` text comes before its step, in segments that are `early`: they have no tokens, cost
    nothing and end nothing.
    The discarded and lost tokens and the seconds are set on the last segment of a sequence, the one with a `finish`.
    """

    token_ids: tuple[int, ...]
    text: str
    finish: Finish | None = None
    thinking: bool = False  # it belongs to the thinking
    early: int | None = None  # text of a step that is still being written, from this character of it on
    discarded_tokens: int = 0  # sampled after the end of the last segment and thrown away
    lost_tokens: int = 0  # of the discarded: died with a replica, and no budget pays for them
    cached_tokens: int = 0  # of the prefix, served from the prefix cache
    prompt_tokens: int | None = None  # of the prefix, as a server counts them that returns no token ids; None: its ids
    logprob: float | None = None  # of the tokens, summed
    alternatives: tuple[Alternatives, ...] = ()  # to its tokens that may begin one of the words, as asked
    confidence: StepConfidence | None = None  # of the tokens, where likeliest ones were asked for
    read: tuple[ReadToken, ...] = ()  # of the prefix, with the last segment, where `reads` asks for it
    queue_s: float = 0.0  # waited for a place in an engine
    engine_s: float = 0.0  # in the engine


class GenerationStream(Protocol):
    """Sequences being written: yields (index of the request, segment) in order of completion."""

    def __aiter__(self) -> AsyncIterator[tuple[int, Segment]]: ...

    async def __anext__(self) -> tuple[int, Segment]: ...

    def abort(self, indices: Sequence[int]) -> None:
        """Ends sequences now. Each still yields a last segment, without tokens, that says what was thrown away."""
        ...

    async def aclose(self) -> None:
        """Aborts what is left; yields nothing more."""
        ...


class Policy(Protocol):
    """Writes. Sequences of one call and of many calls share the engine's continuous batch."""

    shape: ModelShape
    context_length: int
    thinking: ThinkingMarkers | None  # None: it does not think, as far as is known

    async def encode(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        """Prompt ids, through the model's chat template."""
        ...

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of raw text, without special tokens: for injection."""
        ...

    def generate(self, requests: Sequence[Generation]) -> GenerationStream:
        """Begins all the requests and returns at once; none waits for another.

        The stream yields (index of the request, segment) as steps end, and for each request one last segment with its
        `finish`. Whoever holds the stream ends it: `abort` ends single requests, `aclose` all of them. Iterating raises
        ProblemError for a request that the engine refuses, ReplicaError when no replica can go on.
        """
        ...


@runtime_checkable
class ReadsCalls(Protocol):
    """A policy that knows its model's words for calls of tools."""

    tool_parser: str | None  # what reads them; None: there is none, and none can be read

    async def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
        """The calls of each reply, None where there is none. Raises ProblemError for tools that it does not take."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A trajectory as text, for verifiers that read text."""

    problem: Problem
    steps: tuple[str, ...]  # as decoded, delimiters included
    asked: tuple[int, ...] = ()  # indices of the steps after which a score is wanted, one for each boundary
    ended: bool = False  # no step will follow


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """A trajectory to score. The handle, if any, covers a prefix of `token_ids`, which is the truth."""

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...]  # token counts (prompt included) after which to read a score, increasing
    handle: StateHandle | None = None
    keep_parent: bool = True  # False: nobody will fork from `handle` any more, so its state may go
    solution: Solution | None = None  # the same trajectory, for a verifier that reads text


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Scores at the asked boundaries, the state after the last token, and what it cost.

    Where the verifier can give no score, `unjudged` says why, and there are neither scores nor a handle.
    """

    scores: tuple[Score, ...]
    handle: StateHandle | None  # None: this verifier carries no state
    verifier_tokens: int
    reingested_tokens: int = 0
    flops: float = 0.0
    unjudged: str | None = None


class Verifier(Protocol):
    """Judges. Says that it can't (`Verdict.unjudged`) rather than guess: there is no default score."""

    @property
    def scores_steps(self) -> bool:
        """False: it judges whole solutions only."""
        ...

    @property
    def reads_text(self) -> bool:
        """True: it wants `ScoreRequest.solution`."""
        ...

    @property
    def reads_tokens(self) -> bool:
        """True: it reads the policy's tokens, and may be given a prompt's alone for the state after them."""
        ...

    @property
    def flops_per_token(self) -> float:
        """For one of the policy's tokens. 0 for a verifier that reads text: each verdict then says what it cost."""
        ...

    @property
    def state_bytes(self) -> int:
        """Of one trajectory's carried state; 0 without one."""
        ...

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        """A verdict for each request, in their order, with one score in [0, 1] for each of its boundaries.

        States that verdicts carry belong to the caller, who gives each back with `release`. Cancelling the call frees
        what it had begun. Raises ReplicaError when no replica can go on, UserError for a request that this verifier
        does not take; what it can't judge is a verdict without scores.
        """
        ...

    def release(self, handles: Sequence[StateHandle]) -> None:
        """Frees states. A hint: releasing twice, or using a released handle, costs time and changes no score."""
        ...


class Answers(Protocol):
    """How answers are found in texts, and which of them are equal. Graders, votes and the endpoint share it."""

    def extract(self, text: str) -> str | None:
        """The final answer; None where there is none."""
        ...

    async def group(self, answers: Sequence[str | None]) -> list[int | None]:
        """Equal numbers for equal answers; None for no answer. An answer that can't be compared is alone."""
        ...

    async def compare(self, reference: str, answers: Sequence[str | None]) -> list[Comparison]:
        """Each answer against the reference. No answer is not equal."""
        ...


class Workload(Protocol):
    """A budget of samples that the searches of many problems share."""

    async def grant(self, problem_id: str, *, gain: float, samples: int) -> int:
        """Waits for a turn; how many of the asked samples to draw now, 0 when there will be no more."""
        ...

    def leave(self, problem_id: str) -> None:
        """Says that a problem asks for no more, for whatever reason. Leaving twice is allowed."""
        ...


class Session(Protocol):
    """One problem's search: batched verbs over both pools, under a budget, on a ledger."""

    sampling: Sampling
    selection: Selection  # by what a search that scores its candidates may choose among them
    workload: Workload | None  # None: this search shares no budget with others

    @property
    def thinking(self) -> ThinkingMarkers | None:
        """Around the policy's thinking; None where it does not think."""
        ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def remaining(self) -> Remaining:
        """What is left of the budget. Where nothing is, every new child comes back done: truncated, or pruned when
        no more candidates are allowed."""
        ...

    def may_go_on(self) -> bool:
        """Whether something is left of the budget. A search that would go on asks first: where nothing is, its result
        says that it was cut short."""
        ...

    async def start(self, problem: Problem) -> Trajectory:
        """The empty trajectory. Raises PromptTooLong."""
        ...

    async def rollout(
        self,
        prefixes: Sequence[Trajectory],
        n: int = 1,
        *,
        scored: bool = True,
        temperature: float | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        floor: ConfidenceFloor | None = None,
    ) -> list[Trajectory]:
        """Continues each prefix to its end, n times: children in prefix-major order. A child that reaches one of
        the `stop` strings, or `max_tokens` below its hard cap, comes back RUNNING; the stop string is then a step
        of its own, the last.

        With `logprobs` steps hold the log-probability of their tokens, and with 1 or more of them the confidence that
        so many likeliest tokens show. Then a child that falls below the `floor` comes back RUNNING, too, at once."""
        ...

    async def expand(
        self, prefixes: Sequence[Trajectory], n: int = 1, *, scored: bool = True, temperature: float | None = None
    ) -> list[Trajectory]:
        """As `rollout`, but to the next step boundary.

        With speculation a child may be written on meanwhile, on spare capacity: that continuation becomes the first
        child of its next `expand`, and is thrown away when it is released. Selection never sees it.
        """
        ...

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Scores the steps that have no score yet."""
        ...

    async def group_answers(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        """Which of the trajectories have equal answers: equal numbers for these; None for no answer."""
        ...

    async def inject(self, trajectories: Sequence[Trajectory], text: str) -> list[Trajectory]:
        """Appends forced tokens as a step of their own, cut at `max_tokens`."""
        ...

    def retract(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Takes back the last step of each: its sampled tokens count as discarded. Finished ones run again."""
        ...

    def release(self, trajectories: Sequence[Trajectory]) -> None:
        """Gives up trajectories: what is being written of them is aborted, their verifier states are freed. Scores
        and tokens stay."""
        ...


class Strategy(Protocol):
    """A frozen dataclass that inherits from this: its fields are its configuration, `search` is its algorithm."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    costly: ClassVar[tuple[str, ...]]
    """The fields that multiply what a search costs: a server caps each of them."""
    needs_step_scores: ClassVar[bool] = False
    """Whether it wants a value for each step, which not every verifier gives."""
    restates: ClassVar[bool] = False
    """Whether its candidates answer other prompts than the problem's own."""
    warning: ClassVar[str] = ""
    """What everybody should know who uses it."""

    @property
    def needs_verifier(self) -> bool:
        return False

    @property
    def most_candidates(self) -> int | None:
        """The most candidates that a search makes, where that is known before."""
        return None

    @property
    def needs_tokens(self) -> bool:
        """Whether it goes on from what was written, or stops a sample early: chat APIs, which return text, can't."""
        return False

    @property
    def writes_one(self) -> bool:
        """Whether it writes one trajectory, which is its answer: it may be shown while it is written."""
        return self.most_candidates == 1

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        """Searches until it has its candidates, and chooses one of them; None where there is none.

        The session bounds time and tokens: where a cap cuts something short, children come back truncated or pruned,
        and the search goes on with what it has. It may be cancelled at any `await`; the session cleans up.
        """
        ...


@runtime_checkable
class SharesWorkload(Protocol):
    """A strategy whose searches of a run share a budget: all of them are started at once."""

    def open_workload(self, num_problems: int, in_flight: int, *, done: int = 0, spent: int = 0) -> Workload:
        """The budget of `num_problems`, of which `done` were finished before with `spent` samples."""
        ...
