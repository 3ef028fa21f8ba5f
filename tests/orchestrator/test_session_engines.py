"""Searches over real engines: what ledgers say, what speculation changes, and what a cancelled search leaves."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.tinymath.task import generate as tiny_problems
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import ProblemError
from orchestrator.core.ledger import Budget, Ledger
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Generation, Sampling, Strategy
from orchestrator.policy import PolicyPool
from orchestrator.session import SearchSession
from orchestrator.verifier.chains import PolicyWriter
from orchestrator.verifier.generative import GenerativeVerifier
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import resolve
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from tests.waiting import until
from verifiers.generative import GenerativePRM

PRM = Path(__file__).parents[2] / "experiments" / "tinymath" / "models" / "prm"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def verifier_pool(local_ray: Path) -> AsyncIterator[VerifierPool]:
    config = VerifierConfig(model=str(PRM), replicas=2, start_timeout_s=600.0)
    async with VerifierPool.open(resolve(config)) as pool:
        yield pool


def problems(number: int) -> list[Problem]:
    return [Problem.from_prompt(f"p{i}", p.prompt) for i, p in enumerate(tiny_problems("test", number))]


def session_of(policy: PolicyPool, verifier: VerifierPool | None, seed: int = 0, speculation: int = 0) -> SearchSession:
    return SearchSession(
        policy=policy,
        verifier=verifier,
        sampling=Sampling(temperature=1.0, max_tokens=160),
        budget=Budget(),
        run_seed=seed,
        answers=ExactAnswers(AnswerFormat.parse(None)),
        speculation=speculation,
    )


async def counted(policy: PolicyPool, verifier: VerifierPool) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for stats in [*await policy.stats(), *await verifier.stats()]:
        totals.update(stats)
    return totals


@pytest.mark.parametrize("strategy", [BestOfN(n=4), BeamSearch(n=8, beam_width=2)])
async def test_ledgers_equal_what_the_engines_counted(
    policy_pool: PolicyPool, verifier_pool: VerifierPool, strategy: Strategy
) -> None:
    # a replica that an earlier test killed may be on its way: it would count from 0 in between
    await until(lambda: policy_pool.num_ready == 2, pause_s=0.05, within_s=900)
    before = await counted(policy_pool, verifier_pool)
    ledgers = []

    for problem in problems(3):  # one at a time, which leaves room for speculation
        async with session_of(policy_pool, verifier_pool, speculation=4) as session:
            await strategy.search(problem, session)
        ledgers.append(session.ledger)
    after = await counted(policy_pool, verifier_pool)
    total = sum(ledgers, Ledger())
    assert {name: after[name] - before[name] for name in after} == {
        **dict.fromkeys(after, 0),
        "clients": after["clients"] - before["clients"],
        "sampled_tokens": total.generated_tokens,
        "generated_tokens": total.generated_tokens,
        "prompt_tokens": total.prompt_tokens,
        "cached_tokens": total.cached_tokens,
        "tokens_read": total.verifier_tokens,
    }
    assert (total.speculative_tokens > 0) == isinstance(strategy, BeamSearch)
    assert total.engine_s > 0 and total.verifier_s > 0 and total.peak_state_bytes > 0


async def test_chains_of_a_real_engine_are_counted_as_it_counts_them_and_nonsense_is_no_score(
    policy_pool: PolicyPool,
) -> None:
    """The tiny policy writes, and knows nothing of verdicts."""
    prompts = [problem.messages[0].content for problem in problems(2)]
    before = await policy_pool.stats()
    written = await PolicyWriter(policy_pool).write(prompts, 2, max_tokens=40, temperature=1.0, words=())
    after = await policy_pool.stats()
    counted = {name: sum(s[name] for s in after) - sum(s[name] for s in before) for name in after[0]}
    chains = [chain for of_prompt in written for chain in of_prompt]
    assert [len(of_prompt) for of_prompt in written] == [2, 2]
    assert all(chain.text for chain in chains)
    assert sum(chain.num_tokens for chain in chains) == counted["prompt_tokens"] + counted["generated_tokens"]

    verifier = GenerativeVerifier(GenerativePRM(chains=2, max_tokens=40), PolicyWriter(policy_pool))
    async with session_of(policy_pool, verifier) as session:
        with pytest.raises(ProblemError, match=r"none of 1 candidates .*none of 2 written verdicts can be read"):
            await BestOfN(n=1).search(problems(1)[0], session)
    assert session.ledger.verifier_tokens > 2 * 40


async def test_the_alternatives_that_a_real_engine_tells_are_the_models_at_temperature_one(
    policy_pool: PolicyPool,
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(policy_pool.model, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(policy_pool.model)
    [prefix_ids] = await policy_pool.encode(problems(1))
    how = Generation(prefix_ids=prefix_ids, max_tokens=60, seed=3, temperature=0.5, top_p=1.0, eager=False)
    async with aclosing(policy_pool.generate([replace(how, logprobs=20, words=tuple("0123456789"))])) as stream:
        segments = [segment async for _, segment in stream]
    text = "".join(segment.text for segment in segments)
    token_ids = [token_id for segment in segments for token_id in segment.token_ids]
    with torch.inference_mode():
        logits = model(torch.tensor([[*prefix_ids, *token_ids]])).logits[0, len(prefix_ids) - 1 : -1]
    wanted = [
        (token_id, of_token)
        for token_id, of_token in zip(token_ids, logits.log_softmax(-1), strict=True)
        if re.search(r"\d", tokenizer.decode([token_id]))
    ]
    told, at = [], 0
    for segment in segments:
        told += [(at + token.at, token) for token in segment.alternatives]
        at += len(segment.text)
    assert len(told) == len(wanted) > 5
    for (place, token), (token_id, of_token) in zip(told, wanted, strict=True):
        assert text[place : place + len(token.text)] == token.text == tokenizer.decode([token_id])
        assert 20 <= len(token.logprobs) <= 21
        for other, logprob in token.logprobs:
            likely = [i for i in range(len(of_token)) if tokenizer.decode([i], skip_special_tokens=True) == other]
            assert min(abs(float(of_token[i]) - logprob) for i in likely) < 1e-3


async def test_a_cancelled_search_leaves_no_request_no_state_and_no_pending_task(
    policy_pool: PolicyPool, verifier_pool: VerifierPool
) -> None:
    sessions: list[SearchSession] = []

    async def search(problem: Problem) -> None:
        async with session_of(policy_pool, verifier_pool, speculation=4) as session:
            sessions.append(session)
            await BeamSearch(n=8, beam_width=2).search(problem, session)

    tasks = [asyncio.create_task(search(problem)) for problem in problems(8)]
    async with asyncio.timeout(60):
        while not all(session._scoring._live for session in sessions) or len(sessions) < len(tasks):
            await policy_pool.stats()  # a round trip
    handles = [handle for session in sessions for handle in session._scoring._live.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not policy_pool._waiting and not any(replica.requests for replica in policy_pool._serving.values())
    async with asyncio.timeout(60):
        while any(stats["running"] for stats in await policy_pool.stats()):
            pass
        while (
            any(replica.queue.calls for replica in verifier_pool._replicas)
            or verifier_pool._flush_scheduled  # what is released goes with the next flush
            or verifier_pool._states.any_released
        ):
            await policy_pool.stats()
    keys = [handle.key for handle in handles]
    for replica in verifier_pool._replicas:
        found, _ = await replica.export(keys)
        assert keys and found == 0


async def test_second_steps_have_the_same_distribution_with_and_without_speculation(policy_pool: PolicyPool) -> None:
    """Chi-squared over the first two steps of four long problems, each sampled 64 times both ways."""
    asked = [p for p in problems(60) if p.messages[0].content.count("\n") >= 8][:4]

    async def second_steps(speculation: int) -> tuple[Counter[tuple[str, str]], Ledger]:
        steps: Counter[tuple[str, str]] = Counter()
        total = Ledger()
        for seed in range(8):
            for problem in asked:
                async with session_of(policy_pool, None, 1000 * speculation + seed, speculation) as session:
                    children = await session.expand([await session.start(problem)], 8, scored=False)
                    running = [child for child in children if not child.status.done]
                    grandchildren = await session.expand(running, scored=False)
                    steps.update((problem.id, "".join(s.text for s in child.steps)) for child in grandchildren)
                total += session.ledger
        return steps, total

    (without, spent), (with_it, spent_speculating) = await second_steps(0), await second_steps(4)
    assert spent.speculative_tokens == 0 < spent_speculating.speculative_tokens
    common = [key for key, count in (without + with_it).items() if count >= 6]
    rest = [key for key in without | with_it if key not in common]
    cells = [(without[key], with_it[key]) for key in common]
    cells.append((sum(without[key] for key in rest), sum(with_it[key] for key in rest)))
    totals = [sum(column) for column in zip(*cells, strict=True)]
    statistic = sum(
        (cell[i] - sum(cell) * totals[i] / sum(totals)) ** 2 / (sum(cell) * totals[i] / sum(totals))
        for cell in cells
        for i in range(2)
        if sum(cell)
    )
    degrees = len(cells) - 1
    assert degrees >= 5
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations above its mean
