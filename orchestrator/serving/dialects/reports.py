"""How an answer was found and what it cost, in the words that the dialects share."""

import dataclasses
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Candidate, Step
from orchestrator.serving.orders import Answered, Choice, Order


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of a request: each prompt once, and every token that was sampled for any candidate."""

    prompt_tokens: int
    cached_tokens: int  # of the prompts, those that no search had to read
    sampled_tokens: int
    thinking_tokens: int  # of the sampled

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.sampled_tokens


def usage_of(found: Sequence[Answered]) -> Usage:
    ledger = ledger_of(found)
    return Usage(
        prompt_tokens=sum(answered.prompt_tokens for answered in found),
        cached_tokens=sum(_cached(answered) for answered in found),
        sampled_tokens=ledger.generated_tokens,
        thinking_tokens=ledger.thinking_tokens,
    )


def _cached(answered: Answered) -> int:
    """Many requests share a prompt, so what they found in the cache was often read for one of them: that counts as
    read."""
    read = answered.ledger.prompt_tokens - answered.ledger.cached_tokens
    return max(0, answered.prompt_tokens - read)


def ledger_of(found: Sequence[Answered]) -> Ledger:
    return reduce(add, (answered.ledger for answered in found))


def openai_usage(found: Sequence[Answered]) -> dict[str, Any]:
    """As chat and plain completions have it."""
    usage = usage_of(found)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.sampled_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
    }


def report(order: Order, answered: Answered) -> dict[str, Any]:
    """How the answer was found: what OpenAI's objects have no place for."""
    result = answered.result
    told = {
        "strategy": order.named.name,
        "params": order.named.params,
        "seed": order.seed,
        "answer": result.answer,
        "score": result.score,
        "num_candidates": len(result.candidates),
        "end_reason": result.end_reason.value,
        "ledger": dataclasses.asdict(answered.ledger),
        "wall_s": answered.wall_s,
    }
    if order.return_trace:
        told["trace"] = [_trace(candidate, index == result.chosen) for index, candidate in enumerate(result.candidates)]
    return told


def untold(steps: Sequence[Step], num_told: int) -> list[tuple[Step, str]]:
    """The steps, each with what of its text is not among the first characters, which were told."""
    told = []
    for step in steps:
        told.append((step, step.text[num_told:]))
        num_told = max(0, num_told - len(step.text))
    return told


def choice_report(choice: Choice) -> dict[str, Any]:
    """What the verifier thinks of a candidate. `uncertainty` is that of its last verdict."""
    trajectory = choice.trajectory
    verdicts = [step.score for step in trajectory.steps if step.score is not None]
    return {
        "answer": trajectory.answer,
        "score": choice.candidate.aggregate_score,
        "uncertainty": verdicts[-1].std if verdicts else None,
        "steps": [{"score": verdict.mean, "uncertainty": verdict.std} for verdict in verdicts],
    }


def _trace(candidate: Candidate, chosen: bool) -> dict[str, Any]:
    trajectory = candidate.trajectory
    return {
        "path": list(trajectory.path),
        "status": trajectory.status.value,
        "chosen": chosen,
        "answer": trajectory.answer,
        "score": candidate.aggregate_score,
        "unjudged": trajectory.unjudged,
        "steps": [_step(step) for step in trajectory.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "text": step.text,
        "num_tokens": len(step.token_ids),
        "thinking": step.thinking,
        "forced": step.forced,
        "score": None if step.score is None else step.score.mean,
        "uncertainty": None if step.score is None else step.score.std,
    }
