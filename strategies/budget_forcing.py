"""Budget forcing: hold one chain of thought between a least and a most number of thinking tokens.

Muennighoff et al., "s1: Simple test-time scaling", arXiv 2501.19393. When the policy ends its thinking too early the
end marker is taken back and "Wait" appended, up to `max_waits` times; at the cap the marker is forced. Tokens are
appended as ids: nothing is tokenised again.
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.checks import require
from strategies.selection import result_of

_PLAIN_MARKER = "Answer:"


@dataclass(frozen=True, kw_only=True)
class BudgetForcing(Strategy):
    """Thinking is everything before `end_marker`: null is the marker of a policy that thinks, or else "Answer:"."""

    min_thinking_tokens: int = 0
    max_thinking_tokens: int = 512
    max_waits: int = 2
    wait: str = "Wait"
    end_marker: str | None = None

    costly: ClassVar[tuple[str, ...]] = ()
    needs_tokens: ClassVar[bool] = True
    most_candidates: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require(
            0 <= self.min_thinking_tokens <= self.max_thinking_tokens,
            "budget_forcing: wanted 0 <= min_thinking_tokens <= max_thinking_tokens, "
            f"got {self.min_thinking_tokens} and {self.max_thinking_tokens}",
        )
        require(self.max_thinking_tokens >= 1, "budget_forcing: max_thinking_tokens must be >= 1, got 0")
        require(self.max_waits >= 0, f"budget_forcing: max_waits must be >= 0, got {self.max_waits}")
        require(bool(self.wait), "budget_forcing: wait must not be empty")
        require(self.end_marker != "", "budget_forcing: end_marker must not be empty")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        marker = self.end_marker or (session.thinking.ending if session.thinking is not None else _PLAIN_MARKER)
        thought = await session.start(problem)
        waits = 0
        while (room := self.max_thinking_tokens - thought.num_tokens) > 0 and not thought.status.done:
            [thought] = await session.rollout([thought], max_tokens=room, stop=(marker,), scored=False)
            thinking_tokens = thought.num_tokens - len(_end(thought, marker))
            if not _end(thought, marker):
                break  # a cap, or an end without the marker
            if thinking_tokens >= self.min_thinking_tokens or waits == self.max_waits:
                break
            [thought] = session.retract([thought])
            [thought] = await session.inject([thought], self.wait)
            waits += 1
        if not thought.status.done and not _end(thought, marker):
            [thought] = await session.inject([thought], marker)
        if not thought.status.done:
            [thought] = await session.rollout([thought], scored=False)
        return result_of(thought, detail={"waits": waits})


def _end(thought: Trajectory, marker: str) -> tuple[int, ...]:
    """The tokens of the end marker, if that is what the trajectory ends with."""
    last = thought.steps[-1] if thought.steps else None
    return last.token_ids if last is not None and marker in last.text else ()
