"""Runs a strategy on a script and a table, and watches how it treats its trajectories."""

import asyncio
import re
from collections.abc import Callable

from tests.fakes import ScriptedPolicy, TableVerifier, open_session, problem, text_of


def belief(table: dict[str, float]):
    """Scores a text by the table's key that it ends with."""
    return lambda text: next(value for key, value in table.items() if text.endswith(key))


async def run(strategy, script, judge=None, **session_options):
    policy = ScriptedPolicy(script)
    async with open_session(policy, TableVerifier(judge) if judge else None, **session_options) as session:
        result = await strategy.search(problem(), session)
    return result, policy


class OneHeldBack(ScriptedPolicy):
    """Holds back what continues a text that ends with `held`, until the test lets go."""

    def __init__(self, script, held: str) -> None:
        super().__init__(script)
        self.held = held
        self.let_go = asyncio.Event()

    def generate(self, requests):
        writing = super().generate(requests)
        if any(text_of(request.prefix_ids).endswith(self.held) for request in requests):
            writing.gate = self.let_go
        return writing


class Judging(ScriptedPolicy):
    """Writes what `judge` makes of the solutions that a comparison shows, and else what its script says."""

    def __init__(self, script, judge: Callable[[list[str]], str], **options) -> None:
        super().__init__(script, **options)
        self.judge = judge
        self.shown: list[list[str]] = []

    def _continuation(self, text, request):
        if "[Solution 0]" not in text:
            return super()._continuation(text, request)
        self.shown.append(re.findall(r"\[Solution \d+\]\n\n(.*?)\n\n(?=\[Solution|Which of)", text, re.DOTALL))
        return self.judge(self.shown[-1])


def naming(wanted: str) -> Callable[[list[str]], str]:
    """Names the solution with that text; none where it is not shown."""
    return lambda shown: f"So.\nJudgment: [{shown.index(wanted)}]" if wanted in shown else "None convinces me."


class Watched:
    """A session that knows which running trajectories it gave out and which were given up."""

    def __init__(self, session) -> None:
        self._session = session
        self.running: set[tuple[int, ...]] = set()
        self.released: set[tuple[int, ...]] = set()

    def __getattr__(self, name):
        return getattr(self._session, name)

    async def expand(self, prefixes, n=1, **options):
        return self._noted(prefixes, await self._session.expand(prefixes, n, **options))

    async def rollout(self, prefixes, n=1, **options):
        return self._noted(prefixes, await self._session.rollout(prefixes, n, **options))

    def release(self, trajectories) -> None:
        self.released |= {trajectory.path for trajectory in trajectories}
        self._session.release(trajectories)

    def _noted(self, prefixes, children):
        assert prefixes, "nothing to continue"
        assert not {prefix.path for prefix in prefixes} & self.released, "continued after it was given up"
        self.running |= {child.path for child in children if not child.status.done}
        return children
