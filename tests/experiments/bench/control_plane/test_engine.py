"""Facts about the engine that has no model, under the host that every engine has."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from experiments.bench.control_plane.engine import NullEngine, Writing, null_policy, null_prompt
from orchestrator.core.config import StepConfig
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.policy.engines import check_engine, engine_class
from orchestrator.policy.engines.contract import Delta
from orchestrator.policy.host import PolicyHost, Work
from tests.rooms import roomy
from tests.waiting import until

FAST = Writing(tokens_per_s=1e6, step_tokens=10, solution_steps=4, delta_tokens=3)


async def loaded(writing: Writing = FAST) -> NullEngine:
    config = null_policy(writing)
    engine = await engine_class(config.engine).load(config, index=0, num_threads=1)
    assert isinstance(engine, NullEngine)
    return engine


def prompt_of(engine: NullEngine) -> tuple[int, ...]:
    text = engine.render([Message(role="user", content=null_prompt(0, words=20))], {})
    return tuple(engine.tokenizer.encode(text).ids)


def request(prefix_ids: Sequence[int], num_prompt: int, seed: int = 0, until_step: bool = False) -> Generation:
    return Generation(
        prefix_ids=tuple(prefix_ids),
        num_prompt=num_prompt,
        max_tokens=1000,
        seed=seed,
        temperature=1.0,
        top_p=1.0,
        until_step=until_step,
    )


@asynccontextmanager
async def hosted(engine: NullEngine) -> AsyncIterator[PolicyHost]:
    host = PolicyHost(engine, StepConfig(), admission=roomy())
    host.connect("me")
    try:
        yield host
    finally:
        await host.stop()


async def segments(host: PolicyHost, generation: Generation) -> list[Segment]:
    host.update("me", [(0, Work(generation=generation))], [])
    found: list[Segment] = []
    while not found or found[-1].finish is None:
        for _, item in (await host.poll("me", 60.0)).items:
            assert isinstance(item, Segment)
            found.append(item)
    return found


async def test_a_solution_has_its_steps_whether_it_is_written_at_once_or_step_by_step():
    engine = await loaded()
    prompt = prompt_of(engine)
    assert len(prompt) == 20
    async with hosted(engine) as host:
        whole = await segments(host, request(prompt, 20))
        assert len(whole) == 4 and whole[-1].finish is Finish.EOS
        assert all(5 <= len(step.token_ids) <= 15 for step in whole)
        assert [step.text.endswith("\n\n") for step in whole] == [True, True, True, False]
        prefix, finishes = list(prompt), []
        for seed in range(4):
            [step] = await segments(host, request(prefix, 20, seed, until_step=True))
            prefix += step.token_ids
            finishes.append(step.finish)
        assert finishes == [Finish.BOUNDARY, Finish.BOUNDARY, Finish.BOUNDARY, Finish.EOS]
        assert engine.counters()["steps"] == 8


async def test_the_tokens_are_those_of_the_seed_at_any_pace():
    slow = replace(FAST, tokens_per_s=1e4, delta_tokens=5)
    written = []
    for writing in (FAST, slow):
        engine = await loaded(writing)
        for seed in (1, 2):
            deltas = [delta async for delta in engine.stream("a", request(prompt_of(engine), 20, seed), [])]
            written.append([token for delta in deltas for token in delta.token_ids])
    assert written[:2] == written[2:] and written[0] != written[1]


async def test_a_stream_that_is_aborted_ends_at_once():
    engine = await loaded(replace(FAST, tokens_per_s=1e-6))
    stream = engine.stream("a", request(prompt_of(engine), 20), [])
    asking = asyncio.ensure_future(anext(stream))
    await until(lambda: engine.num_running == 1)
    await engine.abort("a")
    assert await asking == Delta((), 19, Finish.ABORTED)
    assert await anext(stream, None) is None and engine.num_running == 0


async def test_a_request_for_more_than_its_cap_is_cut_there():
    engine = await loaded()
    capped = replace(request(prompt_of(engine), 20), max_tokens=7)
    deltas = [delta async for delta in engine.stream("a", capped, [])]
    assert sum(len(delta.token_ids) for delta in deltas) == 7 and deltas[-1].finish is Finish.LENGTH


def test_users_can_not_name_it():
    with pytest.raises(UserError, match="unknown name"):
        check_engine(null_policy(FAST).engine)


def test_a_pace_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="tokens_per_s must be > 0, got 0"):
        Writing(tokens_per_s=0)
