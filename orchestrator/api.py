"""Searches from Python, in a notebook or a program: no YAML, no results folder."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from orchestrator.answers import open_answers
from orchestrator.cluster import connected
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig, VerifierConfig, most_replicas
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem, SearchResult
from orchestrator.core.protocols import Sampling, Strategy
from orchestrator.policy.resolve import resolve_policy
from orchestrator.pools.open import open_pools
from orchestrator.search import SearchRuntime, solve
from orchestrator.verifier.resolve import resolve


class Headrace:
    """Engines that are ready to search. Any number of searches may run at the same time."""

    def __init__(self, runtime: SearchRuntime) -> None:
        self.runtime = runtime

    async def search(self, prompt: str, strategy: Strategy, *, seed: int = 0, timeout_s: float = 600.0) -> SearchResult:
        """Searches for an answer to one prompt, a user's message. Equal seeds draw equal samples.

        Raises what the search failed with: `ProblemError` where the prompt does not fit, `LateError` after `timeout_s`,
        `UserError` where the strategy needs what is not there, `ReplicaError` where the engines are gone.
        """
        outcome = await solve(
            Problem.from_prompt("prompt", prompt), strategy.search, self.runtime.session(seed), timeout_s=timeout_s
        )
        if outcome.result is None:
            assert outcome.error is not None
            raise outcome.error
        return outcome.result


@asynccontextmanager
async def open_headrace(
    policy: PolicyConfig | str,
    verifier: VerifierConfig | str | None = None,
    *,
    sampling: Sampling | None = None,
    budget: Budget | None = None,
    steps: StepConfig | None = None,
    answer: Any = None,
    ray: RayConfig | None = None,
) -> AsyncIterator[Headrace]:
    """Starts a policy and a verifier, or uses the Ray that this process is connected to; leaving ends them.

    A string is a checkpoint's folder: of a causal language model, and of a streaming PRM. `budget` is each search's;
    `answer` says where answers stand in a text, as `data.answer` in YAML does. Raises UserError and ReplicaError.
    """
    policy = resolve_policy(PolicyConfig(model=policy) if isinstance(policy, str) else policy)
    verifier = VerifierConfig(model=verifier) if isinstance(verifier, str) else verifier
    judge = None if verifier is None else resolve(verifier, answer=answer)
    replicas = most_replicas(policy) + (0 if judge is None else judge.num_actors(policy.model))
    with connected(ray or RayConfig(), replicas):
        async with AsyncExitStack() as stack:
            writes, judges = await open_pools(stack, policy=policy, steps=steps or StepConfig(), verifier=judge)
            answers = await stack.enter_async_context(open_answers("math", AnswerFormat.parse(answer)))
            runtime = SearchRuntime(
                policy=writes,
                verifier=judges,
                answers=answers,
                sampling=sampling or Sampling(),
                budget=budget or Budget(),
            )
            yield Headrace(runtime)
