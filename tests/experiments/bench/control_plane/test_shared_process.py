"""Facts about many replicas in one process: the pools' own actors, keeper and drivers' sides, on a real Ray."""

from contextlib import AsyncExitStack

import pytest

from experiments.bench.control_plane.engine import Writing, null_policy, null_prompt
from experiments.bench.control_plane.pool import SharedSpec, processes_on_nodes
from experiments.bench.control_plane.verifier import Reading, null_verifier
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.config import StepConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Sampling, ScoreRequest
from orchestrator.pools.open import open_pools
from orchestrator.pools.service import own_pool
from orchestrator.search import SearchRuntime
from orchestrator.verifier.pool import VerifierPool
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN

WRITING = Writing(tokens_per_s=1e5, step_tokens=8, solution_steps=3)
pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(120)]


async def test_searches_over_replicas_that_share_processes_write_and_score_every_step():
    policy, verifier = null_policy(WRITING, replicas=5), null_verifier(Reading(call_s=0.0), replicas=3)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(processes_on_nodes(2))
        spec = SharedSpec(
            name="shared", policy=policy, steps=StepConfig(), verifier=verifier, processes=tuple(processes)
        )
        await stack.enter_async_context(own_pool(spec))
        writing, judging = await open_pools(stack, policy=policy, steps=spec.steps, verifier=verifier, pool=spec.name)
        assert isinstance(judging, VerifierPool)
        runtime = SearchRuntime(
            policy=writing, verifier=judging, answers=ExactAnswers(AnswerFormat.parse(None)), sampling=Sampling()
        )
        for strategy in (BestOfN(n=8), BeamSearch(n=8, beam_width=2)):
            async with runtime.session(0) as session:
                problem = Problem.from_prompt(f"{strategy}", null_prompt(0))
                result = await strategy.search(problem, session)
            steps = [step for candidate in result.candidates for step in candidate.trajectory.steps]
            assert steps and all(step.score is not None for step in steps)
        stats = await writing.stats()
        assert sum(stat["steps"] for stat in stats) == 2 * 8 * 3
        assert len(stats) == 5 and len({stat["pid"] for stat in stats}) == 2

        [verdict] = await judging.score([ScoreRequest(token_ids=(1, 2, 3), boundaries=(3,))])
        assert verdict.handle is not None
        moved = await judging.migrate(verdict.handle, (verdict.handle.replica + 1) % 3)
        assert moved.replica != verdict.handle.replica
