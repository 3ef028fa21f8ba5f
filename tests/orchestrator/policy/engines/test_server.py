"""Facts about a server as an engine, over a real HTTP server with scripted answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import Response
from transformers import AutoTokenizer

from orchestrator.core.confidence import token_confidence
from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import ProblemError, ReplicaError, UserError
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.policy.engines import clients
from orchestrator.policy.engines.contract import Delta
from orchestrator.policy.engines.server import ServerEngine
from orchestrator.policy.host import PolicyHost, Work
from tests.orchestrator.policy.engines.scripted_server import ScriptedServer, refusal, scripted_server
from tests.rooms import roomy
from tests.waiting import until

MODEL = str(Path(__file__).parents[4] / "experiments" / "tinymath" / "models" / "policy")
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)
TEXT = "3 + 4 = 7\n\n7 + 1 = 8\n\nAnswer: 8"
PROMPT = tuple(TOKENIZER("Box with 3 pens", add_special_tokens=False)["input_ids"])
TOKENS = [*TOKENIZER(TEXT, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedServer]:
    monkeypatch.setattr(clients, "RETRIES", 2)
    async with scripted_server(TOKENIZER, TEXT) as scripted:
        yield scripted


@pytest.fixture
def config(server: ScriptedServer) -> PolicyConfig:
    return PolicyConfig(engine="openai", model="m", urls=[server.url], tokenizer=MODEL, request_timeout_s=5.0)


@asynccontextmanager
async def loaded(config: PolicyConfig) -> AsyncIterator[ServerEngine]:
    made = await ServerEngine.load(config, index=0, num_threads=1)
    try:
        yield made
    finally:
        await made.stop()


def generation(**changes: Any) -> Generation:
    made = Generation(prefix_ids=PROMPT, max_tokens=100, seed=7, temperature=0.8, top_p=0.9)
    return replace(made, **changes)


async def sampled(made: ServerEngine, **changes: Any) -> list[Delta]:
    stops = changes.pop("stop_token_ids", ())
    async with aclosing(made.stream("a", generation(**changes), stops)) as deltas:
        return [delta async for delta in deltas]


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


async def test_tokens_arrive_as_the_server_samples_them(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        deltas = await sampled(made, logprobs=0)
        assert tokens_of(deltas) == TOKENS and deltas[-1].finish is Finish.EOS
        assert all((delta.logprobs, delta.confidences) == ([-2.5], None) for delta in deltas if delta.token_ids)
        assert all(delta.likeliest is None for delta in deltas)
        assert made.counters() == {
            "prompt_tokens": len(PROMPT),
            "cached_tokens": 3,
            "generated_tokens": len(TOKENS),
            "preemptions": 0,
        }
    [asked] = server.asked
    wanted = {"prompt": list(PROMPT), "max_tokens": 100, "seed": 7, "temperature": 0.8, "top_p": 0.9, "model": "m"}
    assert wanted.items() <= asked.items()
    assert (asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (0, 0.0, 1.0), "none is the server's own"


async def test_the_likeliest_tokens_come_by_their_ids(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        deltas = await sampled(made, logprobs=2, words=("4",))
    for delta in deltas:
        assert delta.likeliest == [{token_id: -2.5, 0: -0.5, 1: -1.5} for token_id in delta.token_ids]


async def test_confidence_is_that_of_the_likeliest_tokens_and_not_of_the_sampled_one(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    async with loaded(config) as made:
        deltas = await sampled(made, logprobs=2)
    confident = [token_confidence([-0.5, -1.5])]
    assert [delta.confidences for delta in deltas if delta.token_ids] == [confident] * len(TOKENS)
    [asked] = server.asked
    assert (asked["logprobs"], asked["return_tokens_as_token_ids"]) == (2, True)


async def test_a_server_that_tells_no_logprobs_fails_the_problem_that_wants_them(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    server.tells_logprobs = False
    async with loaded(config) as made:
        for wanted in (0, 2):
            with pytest.raises(ProblemError, match=f"wanted logprobs of 1 tokens, {wanted} likeliest .*got those of 0"):
                await sampled(made, logprobs=wanted)
        assert tokens_of(await sampled(made)) == TOKENS


async def test_a_server_tells_what_it_thinks_of_a_prefix(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        [delta] = await sampled(made, reads=1, max_tokens=1)
        server.tells_logprobs = False
        with pytest.raises(ProblemError, match="wanted prompt_logprobs of"):
            await sampled(made, reads=1, max_tokens=1)
    assert (delta.token_ids, delta.finish) == ([5], Finish.LENGTH)
    assert delta.read == [{}, *({token_id: -2.5, 0: -0.5} for token_id in PROMPT[1:])]


async def test_a_request_ends_at_its_cap_and_at_its_stop_tokens(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        capped = await sampled(made, max_tokens=3)
        assert (tokens_of(capped), capped[-1].finish) == (TOKENS[:3], Finish.LENGTH)
        stopped = await sampled(made, stop_token_ids=(TOKENS[4],))
        first = TOKENS.index(TOKENS[4])
        assert (tokens_of(stopped), stopped[-1].finish) == (TOKENS[: first + 1], Finish.BOUNDARY)


async def test_the_host_cuts_its_tokens_into_the_steps_that_any_engine_has(config: PolicyConfig) -> None:
    async with loaded(config) as made:
        host = PolicyHost(made, StepConfig(), admission=roomy())
        host.connect("c")
        host.update("c", [(0, Work(generation=generation()))], [])
        segments: list[Segment] = []
        while not segments or segments[-1].finish is None:
            segments += [item for _, item in (await host.poll("c", 5.0)).items if isinstance(item, Segment)]
        assert [segment.text for segment in segments] == ["3 + 4 = 7\n\n", "7 + 1 = 8\n\n", "Answer: 8"]
        assert [token_id for segment in segments for token_id in segment.token_ids] == TOKENS
        await host.stop()


async def test_an_abort_closes_the_connection_and_says_so(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        server.stalls_after = 2
        stream = made.stream("a", generation(), ())
        assert [(await anext(stream)).token_ids for _ in range(2)] == [[token_id] for token_id in TOKENS[:2]]
        await made.abort("a")
        assert [delta async for delta in stream] == [Delta((), 0, Finish.ABORTED)]
        await until(lambda: server.left == 1)
        assert made.num_running == 0


async def test_who_closes_a_stream_ends_the_request_there(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        server.stalls_after = 0
        stream = made.stream("a", generation(), ())
        waiting = asyncio.create_task(anext(stream))
        await until(lambda: len(server.asked) == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()
        await until(lambda: server.left == 1)
        assert made.num_running == 0


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_a_busy_server_refuses_is_asked_again(
    server: ScriptedServer, config: PolicyConfig, status: int
) -> None:
    server.refusals = [refusal(status), refusal(status)]
    async with loaded(config) as made:
        assert tokens_of(await sampled(made)) == TOKENS
    assert len(server.asked) == 3


async def test_a_server_that_fails_at_every_request_is_lost(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        server.fails = True
        with pytest.raises(ReplicaError, match="refused with 500"):
            await sampled(made)


async def test_a_request_at_which_alone_a_server_fails_is_the_problems_error(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    server.refusals = [refusal(500)] * 4  # as often as the client asks
    async with loaded(config) as made:
        with pytest.raises(ProblemError, match="refused with 500; and it answers other requests"):
            await sampled(made)
        assert tokens_of(await sampled(made)) == TOKENS, "the next one is answered"


async def test_a_gateway_without_a_server_behind_it_is_lost(server: ScriptedServer, config: PolicyConfig) -> None:
    server.refusals = [refusal(502)] * 4
    async with loaded(config) as made:
        with pytest.raises(ReplicaError, match="refused with 502"):
            await sampled(made)


async def test_what_the_server_calls_a_bad_request_is_the_problems_error(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    server.refusals = [refusal(400)]
    async with loaded(config) as made:
        with pytest.raises(ProblemError, match="refused with 400"):
            await sampled(made)
        assert tokens_of(await sampled(made)) == TOKENS, "the next one is answered"


@pytest.mark.parametrize("cuts", [[4], [1, 2, 3]])
async def test_a_stream_that_is_cut_off_goes_on_from_the_tokens_that_came(
    server: ScriptedServer, config: PolicyConfig, cuts: list[int]
) -> None:
    server.cuts = list(cuts)
    async with loaded(config) as made:
        assert tokens_of(await sampled(made)) == TOKENS
    assert [len(asked["prompt"]) - len(PROMPT) for asked in server.asked] == [
        sum(cuts[:n]) for n in range(len(cuts) + 1)
    ]
    assert [asked["max_tokens"] for asked in server.asked] == [100 - sum(cuts[:n]) for n in range(len(cuts) + 1)]
    assert len({asked["seed"] for asked in server.asked}) == len(server.asked), "the same draws are not made again"


async def test_a_schema_is_the_servers_business_and_none_goes_on_from_tokens(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    async with loaded(config) as made:
        assert tokens_of(await sampled(made, json_schema='{"type": "object"}')) == TOKENS
        server.cuts = [2]
        with pytest.raises(ReplicaError, match="holds from its begin"):
            await sampled(made, json_schema="{}")
    schema = {"name": "answer", "schema": {"type": "object"}}
    assert server.asked[0]["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert len(server.asked) == 2


async def test_where_only_the_end_of_a_stream_is_missing_it_has_its_tokens(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    server.tokens, server.says_why = server.tokens[:3], False
    async with loaded(config) as made:
        deltas = await sampled(made, max_tokens=3)
    assert (tokens_of(deltas), deltas[-1].finish) == (TOKENS[:3], Finish.LENGTH)
    assert len(server.asked) == 1


async def test_a_stream_that_is_always_cut_off_is_the_loss_of_the_server(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    server.cuts = [1] * 9
    async with loaded(config) as made:
        with pytest.raises(ReplicaError, match="cut off 4 times"):
            await sampled(made)


@pytest.mark.parametrize("chunk", [b"data: {\n\n", b'data: {"error": {"message": "out of memory"}}\n\n'])
async def test_garbage_in_a_stream_is_a_cut(server: ScriptedServer, config: PolicyConfig, chunk: bytes) -> None:
    server.chunks = [chunk]
    async with loaded(config) as made:
        assert tokens_of(await sampled(made)) == TOKENS
    assert len(server.asked) == 2


async def test_ids_that_the_tokenizer_has_not_are_never_taken(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        server.tokens = [4, 10**6]
        with pytest.raises(ReplicaError, match=f"wanted token ids below {len(TOKENIZER)}, .*got .1000000"):
            await sampled(made)


async def test_a_server_that_stalls_has_a_timeout(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(replace(config, request_timeout_s=0.2)) as made:
        server.stalls_after = 0
        with pytest.raises(ReplicaError, match="cut off 4 times, the last: APITimeoutError"):
            await sampled(made)


# before anything is asked of it


async def test_what_is_served_is_known_before_it_is_used(server: ScriptedServer, config: PolicyConfig) -> None:
    async with loaded(config) as made:
        info = made.info()
        assert (info.context_length, info.max_num_seqs) == (256, config.max_num_seqs)
        assert info.shape.num_layers > 0, "of the checkpoint in the tokenizer's folder"
        assert made.render([Message(role="user", content="Q?")], {}).count("Q?") == 1
    async with loaded(replace(config, max_model_len=99, flops_per_token=8.0)) as made:
        assert (made.info().context_length, made.info().shape.weights_per_token) == (99, 4)


async def test_the_size_of_the_servers_cache_is_what_its_metrics_say(
    server: ScriptedServer, config: PolicyConfig
) -> None:
    async with loaded(config) as made:
        assert made.info().kv_capacity_tokens == 256 * config.max_num_seqs, "not told: as many as may run"
    for order in ('block_size="32",dtype="auto",num_gpu_blocks="10"', 'num_gpu_blocks="10",block_size="32"'):
        server.metrics = f"# HELP x\nvllm:cache_config_info{{{order}}} 1.0\n"
        async with loaded(config) as made:
            assert made.info().kv_capacity_tokens == 320


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"id": "other"}}, r"policy\.model: http.* serves other, got m"),
        ({"model": {"id": "m"}}, r"policy\.max_model_len: .* does not tell how long its context is"),
        ({"returns_token_ids": False}, "returns no token ids"),
        ({"offset": 1}, r"policy\.tokenizer: .* is not the tokenizer of m"),
    ],
)
async def test_a_server_of_something_else_is_the_users_error(
    server: ScriptedServer, config: PolicyConfig, changes: dict[str, Any], message: str
) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=message):
        await ServerEngine.load(config, index=0, num_threads=1)


async def test_a_server_that_is_down_does_not_answer(config: PolicyConfig) -> None:
    with pytest.raises(ReplicaError, match="does not answer"):
        await ServerEngine.load(replace(config, urls=["http://127.0.0.1:1/v1"]), index=0, num_threads=1)


async def test_the_key_is_sent_and_never_said(
    server: ScriptedServer, config: PolicyConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POLICY_KEY", "secret")
    server.refusals = [Response(status_code=401), *[refusal(503)] * 9]
    async with loaded(replace(config, api_key_env="POLICY_KEY")) as made:
        for kind in (UserError, ReplicaError):
            with pytest.raises(kind) as raised:
                await sampled(made)
            assert "secret" not in str(raised.value)
    assert server.keys == ["Bearer secret"] and "secret" not in caplog.text
