"""The one request and the one answer behind every dialect: what to search, how much of it to show, what was found."""

from dataclasses import dataclass

from orchestrator.core.alternatives import ReadToken
from orchestrator.core.ledger import Budget, Ledger
from orchestrator.core.nouns import Candidate, Problem, SearchResult, Status, Trajectory
from orchestrator.core.protocols import Sampling
from orchestrator.serving.catalog import NamedStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that was understood."""

    request_id: str  # in the log
    model: str
    problems: tuple[Problem, ...]  # a search each
    asked_in: str  # the field that they come from
    named: NamedStrategy
    sampling: Sampling
    budget: Budget  # of each search
    seed: int
    effort: str | None = None  # the name of what it may cost
    choices: int = 1  # candidates that are shown of each search
    logprobs: int | None = None  # likeliest tokens in the place of each that is shown; None: not even its own
    echo: bool = False  # the prompt is shown, too
    writes: bool = True  # False: nothing is searched, and only the prompt is shown
    stream: bool = False
    include_usage: bool = False
    return_trace: bool = False
    events: bool = False  # what happens in the search is streamed
    narrates: bool = False  # and told in words, as reasoning

    @property
    def shows_early(self) -> bool:
        """Whether the answer is streamed while it is written. Log-probabilities and calls of tools are read at its
        end."""
        alone = self.choices == 1 and self.named.strategy.writes_one
        whole = self.logprobs is not None or self.echo or any(map(shows_tools, self.problems))
        return self.stream and alone and self.writes and not whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A candidate that is shown."""

    candidate: Candidate
    read: tuple[ReadToken, ...] | None = None  # the tokens of its completion; None: not asked, or no budget was left

    @property
    def trajectory(self) -> Trajectory:
        return self.candidate.trajectory

    @property
    def finish_reason(self) -> str:
        if self.trajectory.status is not Status.FINISHED:
            return "length"
        return "stop" if self.trajectory.calling is None else "tool_calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a search found and what it cost."""

    problem: Problem
    result: SearchResult
    choices: tuple[Choice, ...]  # the best first
    prompt_read: tuple[ReadToken, ...] = ()  # the prompt's tokens, where they are echoed and the order needs them
    ledger: Ledger
    prompt_tokens: int  # of the prompt, once
    wall_s: float


def shows_tools(problem: Problem) -> bool:
    """Whether the model may call tools."""
    return problem.tools is not None and problem.tools.shown


def ranked(result: SearchResult) -> list[Candidate]:
    """The chosen candidate, then the others by their scores; those of equal scores, or without, in their order."""
    others = [candidate for index, candidate in enumerate(result.candidates) if index != result.chosen]
    others.sort(key=lambda other: (other.aggregate_score is None, -(other.aggregate_score or 0.0)))
    return others if result.chosen is None else [result.candidates[result.chosen], *others]
