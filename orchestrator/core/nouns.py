"""The nouns of a search. All values are frozen: extending or forking makes a new one that shares the prefix.

Token ids are the truth about a trajectory. Text is for people, voters and graders; a `StateHandle` is a cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain
from typing import Any

from orchestrator.core.confidence import StepConfidence
from orchestrator.core.ledger import Ledger
from orchestrator.core.tools import CallingReply, Tools
from orchestrator.core.values import numerous


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that an assistant asked for. `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message, as in the OpenAI API."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant
    tool_call_id: str | None = None  # of a tool: which call it answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a policy goes on from: messages through its chat template, or a text or tokens as they stand."""

    messages: tuple[Message, ...] = ()
    template: Mapping[str, Any] = field(default_factory=dict)  # arguments of the chat template, over the configured
    raw: str | tuple[int, ...] | None = None  # where it is given, messages and template count for nothing
    json_schema: str | None = None  # JSON: what is written must fit it


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is to be solved. It has no reference answer: graders hold those, strategies can't see them."""

    id: str
    messages: tuple[Message, ...]
    difficulty: float | None = None  # the data set's own grade, for analysis only
    metadata: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)  # as `Prompt.template`
    raw: str | tuple[int, ...] | None = None  # as `Prompt.raw`; the messages then say the same to those who read text
    json_schema: str | None = None  # as `Prompt.json_schema`
    tools: Tools | None = None  # that its reply may call; the chat template has those which are shown

    @classmethod
    def from_prompt(cls, id: str, prompt: str, **fields: Any) -> "Problem":
        return cls(id=id, messages=(Message(role="user", content=prompt),), **fields)

    @property
    def prompt(self) -> Prompt:
        template = self.template
        if self.tools is not None and self.tools.shown:
            template = {**template, "tools": list(self.tools.given)}
        return Prompt(messages=self.messages, template=template, raw=self.raw, json_schema=self.json_schema)

    def asking(self, messages: tuple[Message, ...]) -> "Problem":
        """The same problem, asked with other messages, whose reply may be any text."""
        return replace(self, messages=messages, raw=None, json_schema=None, tools=None)

    @property
    def text(self) -> str:
        """What is asked; with the roles where that takes more than one message."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.messages)


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A verifier's belief that every step so far is correct: mean and standard deviation, both in [0, 1]."""

    mean: float
    std: float = 0.0


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A run of tokens up to and including the token that completes a step boundary (or the end)."""

    token_ids: tuple[int, ...]
    text: str
    forced: bool = False  # injected by a strategy, not sampled
    thinking: bool = False  # it belongs to the policy's thinking, its markers included
    score: Score | None = None  # None: not scored (never a silent 0.0)
    logprob: float | None = None  # the policy's own, summed over the tokens; only where a strategy asked for it
    confidence: StepConfidence | None = None  # only where a strategy asked for it


class Status(StrEnum):
    RUNNING = "running"  # can be continued
    FINISHED = "finished"  # the policy ended it
    TRUNCATED = "truncated"  # a cap ended it
    PRUNED = "pruned"  # the search gave it up
    FAILED = "failed"

    @property
    def done(self) -> bool:
        return self is not Status.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHandle:
    """A handle to a verifier state after `num_tokens` tokens (prompt included). Immutable: advancing gives a new one.

    The state lives in the replica's store under `key`; whether it is still there is the pool's business, because
    it can always be rebuilt from the tokens.
    """

    replica: int
    epoch: int  # how often that replica was restarted: a handle of an earlier epoch is lost
    key: str
    num_tokens: int


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A prefix of a solution, or a whole one."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    path: tuple[int, ...] = ()  # which child at each fork: seeds derive from it
    handle: StateHandle | None = None
    status: Status = Status.RUNNING
    answer: str | None = None  # extracted from the text once it is done; of calls of tools their JSON
    unjudged: str | None = None  # why the verifier gives it no score: it ranks last, and is not asked about again
    cost: Ledger = field(default_factory=Ledger)  # of writing and reading this path; forks share their prefix's
    retracted_tokens: int = 0  # sampled and taken back: `max_tokens` caps them, too
    calling: CallingReply | None = None  # once it is done, where it calls tools

    @property
    def completion_ids(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable([step.token_ids for step in self.steps]))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and completion."""
        return tuple(chain(self.prompt_ids, *[step.token_ids for step in self.steps]))

    @property
    def num_tokens(self) -> int:
        """Tokens after the prompt, injected ones included: what `max_tokens` caps."""
        return sum(len(step.token_ids) for step in self.steps)

    @property
    def generated_tokens(self) -> int:
        """Tokens that the policy sampled."""
        return sum(len(step.token_ids) for step in self.steps if not step.forced)

    @property
    def thinking_tokens(self) -> int:
        """Tokens of the thinking that the policy sampled."""
        return sum(len(step.token_ids) for step in self.steps if step.thinking and not step.forced)

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    @property
    def thoughts(self) -> str:
        """The text of the thinking, its markers included."""
        return "".join(step.text for step in self.steps if step.thinking)

    @property
    def reply(self) -> str:
        """The text after the thinking: all of it where the policy does not think."""
        return "".join(step.text for step in self.steps if not step.thinking)

    @property
    def step_scores(self) -> tuple[float, ...]:
        """Means of the scored steps, in order."""
        return tuple(step.score.mean for step in self.steps if step.score is not None)

    @property
    def scored(self) -> bool:
        """Whether every sampled step has a score, those of thinking aside that a verifier of text is not shown."""
        return any(step.score is not None for step in self.steps) and all(
            step.score is not None or step.forced or step.thinking for step in self.steps
        )


class EndReason(StrEnum):
    """Why a search ended."""

    COMPLETED = "completed"
    BUDGET = "budget"  # a cap on tokens, FLOPs or candidates cut it short
    DEADLINE = "deadline"  # its time was over


class Selection(StrEnum):
    """By what a search may choose among its candidates, and by what it chose."""

    SCORE = "score"  # the verifier's favourite
    WEIGHTED = "weighted"  # a vote, weighted by the candidates' scores
    MAJORITY = "majority"  # a vote
    COMPARISON = "comparison"  # what the policy wrote when it was shown several candidates; never of a session


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A finished trajectory and the score the strategy ranked it by (None: it was not ranked by a score)."""

    trajectory: Trajectory
    aggregate_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Whether an answer is equal to a reference. `equal` None: undecided, for the `reason`; never a silent False."""

    equal: bool | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a strategy found. `chosen` is an index into `candidates`; None when there is no candidate."""

    candidates: tuple[Candidate, ...]
    chosen: int | None
    end_reason: EndReason = EndReason.COMPLETED
    selection: Selection | None = None  # None: there was nothing to choose from
    detail: Mapping[str, Any] = field(default_factory=dict)  # what the strategy decided, for analysis
    ledger: Ledger = field(default_factory=Ledger)  # what the search cost; set by `orchestrator.search.solve`

    @property
    def answer(self) -> str | None:
        return None if self.chosen is None else self.candidates[self.chosen].trajectory.answer

    @property
    def score(self) -> float | None:
        return None if self.chosen is None else self.candidates[self.chosen].aggregate_score
