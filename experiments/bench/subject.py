"""What the benchmarks of engines run: two models, what the policy is asked, and how much of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.config import PolicyConfig, StepConfig, VerifierConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Policy, Sampling, Verifier
from orchestrator.search import SearchRuntime


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A policy and a verifier that reads its tokens."""

    name: str  # as in results/bench
    policy: PolicyConfig
    verifier: VerifierConfig | None  # None: nothing is scored
    sampling: Sampling
    steps: StepConfig
    problems: Callable[[int, int], list[Problem]]  # so many, from the one of that number on
    num_problems: Mapping[int, int]  # in flight -> problems of one repeat of a search; each repeat has its own
    shares: bool  # whether beam search is also measured without each of its parts, for many times the minutes
    num_warm: int  # problems that are searched before anything is measured
    num_sampled: int  # problems of a repeat of plain sampling, all in flight
    goals: Mapping[str, str]  # by benchmark

    @property
    def most_in_flight(self) -> int:
        return max(self.num_problems)

    def runtime(self, policy: Policy, verifier: Verifier | None, *, speculation: int = 0) -> SearchRuntime:
        return SearchRuntime(
            policy=policy,
            verifier=verifier,
            sampling=self.sampling,
            answers=ExactAnswers(AnswerFormat.parse(None)),
            speculation=speculation,
        )
