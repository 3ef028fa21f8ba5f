"""Token-budget prompting: tell the policy how many tokens it may use.

Han et al., "Token-Budget-Aware LLM Reasoning" (TALE), arXiv 2412.18547. Here the budget is given, not estimated. A
hard budget also cuts the writing there and forces the answer, as in `budget_forcing`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Problem, SearchResult, Selection, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.checks import require
from strategies.selection import as_candidates, search_result


@dataclass(frozen=True, kw_only=True)
class TokenBudgetPrompt(Strategy):
    """n samples under a stated budget, one vote each. The sentence is a line of its own after the user's last."""

    budget: int = 128
    template: str = "Use fewer than {budget} tokens."
    hard: bool = False
    end_marker: str = "Answer:"  # forced where a hard budget cuts; the answer's own tokens come on top
    n: int = 1

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_tokens: ClassVar[bool] = True
    restates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.budget >= 1, f"token_budget_prompt: budget must be >= 1, got {self.budget}")
        require(
            "{budget}" in self.template, f"token_budget_prompt: template must contain {{budget}}, got {self.template!r}"
        )
        require(bool(self.end_marker), "token_budget_prompt: end_marker must not be empty, got ''")
        require(self.n >= 1, f"token_budget_prompt: n must be >= 1, got {self.n}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(self._stated(problem))
        samples = await session.rollout([root], self.n, scored=False, max_tokens=self.budget if self.hard else None)
        cut = [sample for sample in samples if not sample.status.done]
        if cut:
            whole = [sample for sample in samples if sample.status.done] + await self._answered(cut, session)
            samples = sorted(whole, key=lambda sample: sample.path)
        candidates = as_candidates(samples, None)
        return await search_result(candidates, session, selection=Selection.MAJORITY, detail={"cut": len(cut)})

    def _stated(self, problem: Problem) -> Problem:
        """The problem with the budget in its last user message."""
        messages = list(problem.messages)
        last = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
        if last is None:
            roles = ", ".join(message.role for message in messages) or "no message"
            raise ProblemError(f"problem {problem.id}: token_budget_prompt wants a user message, got {roles}")
        sentence = self.template.replace("{budget}", str(self.budget))
        messages[last] = replace(messages[last], content=f"{messages[last].content}\n{sentence}")
        return problem.asking(tuple(messages))

    async def _answered(self, cut: list[Trajectory], session: Session) -> list[Trajectory]:
        """Writes each to its end, after the end marker unless it has one already."""
        marked = [sample for sample in cut if self.end_marker in sample.text]
        marked += await session.inject(
            [sample for sample in cut if self.end_marker not in sample.text], self.end_marker
        )
        ended = [sample for sample in marked if sample.status.done]
        running = [sample for sample in marked if not sample.status.done]
        return ended + (await session.rollout(running, scored=False) if running else [])
