"""The endpoint over a scripted policy and a table verifier: answers, refusals, limits and clients that leave."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from orchestrator.core.errors import HeadraceError, PoolExhausted, ReplicaError, UserError
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Generation, Segment
from orchestrator.serving.config import Limits
from orchestrator.serving.service import Pools
from tests.fakes import ScriptedPolicy, ScriptedStream, TableVerifier, ThinkingPolicy
from tests.orchestrator.serving.endpoint import Connection, chat, client_of, endpoint, num_searches
from tests.waiting import until

PATH = "/v1/chat/completions"
SCRIPT = {"Q:": ["a\n\nAnswer: 1", "bb\n\nAnswer: 2"]}


def prefers_2(text: str) -> float:
    return 0.9 if "2" in text else 0.2


def policy() -> ScriptedPolicy:
    return ScriptedPolicy(SCRIPT, context_length=2000)


def verifier() -> TableVerifier:
    return TableVerifier(prefers_2)


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream; its last line must be [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


# answers


async def test_the_chosen_candidate_is_returned_and_every_token_counted() -> None:
    async with client_of(endpoint(policy(), verifier())) as http:
        response = await http.post(PATH, json=chat(seed=5))
    answer = response.json()
    assert response.status_code == 200, answer
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "bb\n\nAnswer: 2", "refusal": None}
    assert (choice["finish_reason"], answer["model"], answer["object"]) == ("stop", "tiny", "chat.completion")
    sampled = len("a\n\nAnswer: 1") + len("bb\n\nAnswer: 2") + 2  # both ends of sequence too
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": sampled,
        "total_tokens": 2 + sampled,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    report = answer["headrace"]
    assert report["params"] == {"n": 2, "aggregation": "last", "selection": {"kind": "mean", "z": 1.0}}
    assert (report["strategy"], report["answer"], report["score"], report["seed"]) == ("best_of_n", "2", 0.9, 5)
    assert (report["num_candidates"], report["ledger"]["generated_tokens"]) == (2, sampled)
    assert report["ledger"]["verifier_tokens"] > 0 and report["wall_s"] >= 0


async def test_a_stream_brings_the_answer_by_steps_then_its_end_then_usage() -> None:
    async with client_of(endpoint(policy(), verifier())) as http:
        response = await http.post(PATH, json=chat(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *steps, last, usage = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [step["choices"][0]["delta"]["content"] for step in steps] == ["bb\n\n", "Answer: 2"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["headrace"]["answer"] == "2"
    assert (usage["choices"], usage["usage"]["prompt_tokens"]) == ([], 2)
    assert {chunk["id"] for chunk in (first, *steps, last, usage)} == {first["id"]}
    assert all(chunk["usage"] is None for chunk in (first, *steps, last))


async def test_usage_is_streamed_only_when_asked_for() -> None:
    async with client_of(endpoint(policy(), verifier())) as http:
        chunks = events(await http.post(PATH, json=chat(stream=True)))
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_cap_on_tokens_is_finish_reason_length() -> None:
    async with client_of(endpoint(policy())) as http:
        answer = (await http.post(PATH, json=chat(max_tokens=3))).json()
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 3)


async def test_equal_seeds_mean_equal_draws() -> None:
    writer = policy()
    async with client_of(endpoint(writer)) as http:
        for seed in (1, 1, 2):
            await http.post(PATH, json=chat(seed=seed))
    first, again, other = (request.seed for request in writer.requests)
    assert first == again != other


async def test_models_are_the_alias_and_its_strategies() -> None:
    async with client_of(endpoint(policy())) as http:
        listed = (await http.get("/v1/models")).json()
        found = await http.get("/v1/models/tiny@greedy")
        missing = await http.get("/v1/models/tiny@best_of_n")
    assert [model["id"] for model in listed["data"]][:2] == ["tiny", "tiny@greedy"]
    assert (found.status_code, found.json()["id"]) == (200, "tiny@greedy")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_choices_are_the_candidates_ranked_each_with_its_verdicts() -> None:
    async with client_of(endpoint(policy(), verifier())) as http:
        plain = (await http.post(PATH, json=chat(n=2, seed=5))).json()
        streamed = events(await http.post(PATH, json=chat(n=2, seed=5, stream=True)))
    contents = [choice["message"]["content"] for choice in plain["choices"]]
    assert contents == ["bb\n\nAnswer: 2", "a\n\nAnswer: 1"]
    best, other = (choice["headrace"] for choice in plain["choices"])
    assert (best["answer"], best["score"], best["uncertainty"]) == ("2", 0.9, 0.0)
    assert [step["score"] for step in best["steps"]] == [0.2, 0.9]
    assert (other["answer"], other["score"]) == ("1", 0.2)
    choices = [chunk["choices"][0] for chunk in streamed]
    for index, content in enumerate(contents):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"]["role"] == "assistant" and own[-1]["finish_reason"] == "stop"
        assert "".join(choice["delta"].get("content", "") for choice in own) == content
        assert own[-1]["headrace"] == plain["choices"][index]["headrace"]


async def test_more_choices_than_the_search_made_are_refused_unless_a_budget_made_them_few() -> None:
    adaptive = {"strategy": "adaptive_best_of_n", "n": 8, "probe": 2, "price": 1.0}
    async with client_of(endpoint(policy(), verifier())) as http:
        refused = await http.post(PATH, json=chat(n=5, headrace=adaptive))
        fewer = await http.post(PATH, json=chat(n=2, headrace={"n": 2, "budget": {"candidates": 1}}))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert len(fewer.json()["choices"]) == 1 and fewer.json()["headrace"]["end_reason"] == "budget"


async def test_an_answer_ends_before_its_stop_string_and_has_finished() -> None:
    async with client_of(endpoint(policy(), verifier())) as http:
        answer = (await http.post(PATH, json=chat(stop=["swer: 2", "swer: 1"]))).json()
    [choice] = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("bb\n\nAn", "stop")
    assert answer["headrace"]["end_reason"] == "completed"


async def test_tokens_of_the_answer_come_with_their_log_probabilities() -> None:
    async with client_of(endpoint(policy())) as http:
        fields = {"logprobs": True, "top_logprobs": 2, "stop": ["\n\nAnswer"]}
        plain = (await http.post(PATH, json=chat(**fields))).json()
        none = (await http.post(PATH, json=chat(logprobs=True))).json()
        streamed = events(await http.post(PATH, json=chat(**fields, stream=True)))
    [token] = plain["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("a", -0.097, [97])
    assert [top["token"] for top in token["top_logprobs"]] == ["a", "b"]
    tokens = none["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == none["choices"][0]["message"]["content"]
    assert all(token["top_logprobs"] == [] for token in tokens)
    told = [choice["logprobs"] for chunk in streamed for choice in chunk["choices"] if choice["logprobs"]]
    assert [token["token"] for part in told for token in part["content"]] == ["a"]


async def test_a_deadline_of_the_request_ends_its_search_with_what_there_is() -> None:
    writer, reader = ScriptedPolicy({"Q:": ["a\n\n" * 50]}), verifier()
    writer.gate = asyncio.Event()
    writer.gate.set()

    def judge(text: str) -> float:
        assert writer.gate is not None
        writer.gate.clear()  # the next step will not come
        return 0.5

    reader.judge = judge
    async with client_of(endpoint(writer, reader)) as http:
        body = chat(headrace={"deadline_s": 0.05, "return_trace": True})
        asking = asyncio.create_task(http.post(PATH, json=body))
        await until(lambda: writer.aborted > 0)
        writer.gate.set()
        answer = (await asking).json()
    assert answer["headrace"]["end_reason"] == "deadline"
    assert answer["choices"][0]["finish_reason"] == "length"
    trace = answer["headrace"]["trace"]
    assert [one["chosen"] for one in trace].count(True) == 1
    assert {one["status"] for one in trace} == {"truncated"}
    assert trace[0]["steps"][0] == {
        "text": "a\n\n",
        "num_tokens": 3,
        "thinking": False,
        "forced": False,
        "score": 0.5,
        "uncertainty": 0.0,
    }


# refusals


async def test_refusals_are_openai_error_objects() -> None:
    async with client_of(endpoint(policy(), limits=Limits(max_body_bytes=200))) as http:
        json_type = {"content-type": "application/json"}

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b" " * 100

        answers = {
            "unknown model": await http.post(PATH, json=chat(model="other")),
            "bad parameter": await http.post(PATH, json=chat(temperature=-1)),
            "long body": await http.post(PATH, content=b" " * 201, headers=json_type),
            "long body in parts": await http.post(PATH, content=parts(), headers=json_type),
            "a form": await http.post(PATH, content=b"{}", headers={"content-type": "text/plain"}),
            "unknown path": await http.get("/v1/nothing"),
            "wrong method": await http.get(PATH),
            "options": await http.options(PATH),
            "not JSON": await http.post(PATH, content=b"{", headers=json_type),
            "not an object": await http.post(PATH, content=b"[]", headers=json_type),
        }
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == dict(zip(answers, (404, 400, 413, 413, 415, 404, 405, 405, 400, 400), strict=True))
    for answer in answers.values():
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context_is_400_before_anything_is_streamed(stream: bool) -> None:
    long = [{"role": "user", "content": "Q" * 2000}]
    async with client_of(endpoint(policy())) as http:
        response = await http.post(PATH, json=chat(messages=long, stream=stream))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


@asynccontextmanager
async def full_server() -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """One that answers as many requests as it takes; that one ends well afterwards."""
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer, limits=Limits(max_concurrent=1, max_queued=0))
    async with client_of(app) as http:
        held = asyncio.create_task(http.post(PATH, json=chat()))
        await until(lambda: num_searches(app) == 1)
        yield app, http
        writer.gate.set()
        assert (await held).status_code == 200
        assert (await http.post(PATH, json=chat())).status_code == 200


async def test_one_request_too_many_is_429_at_once() -> None:
    async with full_server() as (_, http):
        refused = await http.post(PATH, json=chat())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_request_too_many_is_refused_before_its_body_is_there() -> None:
    async with full_server() as (app, _):
        assert await Connection(app, chat(), whole=False).status() == 429


async def test_stalled_uploads_are_in_nobodys_way() -> None:
    app = endpoint(policy(), limits=Limits(max_concurrent=1))
    async with client_of(app) as http:
        stalled = [Connection(app, chat(), whole=False) for _ in range(300)]
        await until(lambda: all(connection.read for connection in stalled))
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.post(PATH, json=chat())).status_code == 200
        assert [await connection.status() for connection in stalled[:10]] == [408] * 10  # they gave way
        for connection in stalled:
            connection.leave()
        await asyncio.wait([connection.task for connection in stalled])


async def test_a_search_that_a_budget_cut_short_says_so() -> None:
    async with client_of(endpoint(policy(), budget=Budget(policy_tokens=20))) as http:
        whole = (await http.post(PATH, json=chat())).json()
        cut = (await http.post(PATH, json=chat(headrace={"strategy": "self_consistency", "n": 2}))).json()
    assert whole["headrace"]["end_reason"] == "completed"
    assert cut["headrace"]["end_reason"] == "budget"
    assert cut["usage"]["completion_tokens"] <= 20


class FailingPolicy(ScriptedPolicy):
    """Fails when it should write."""

    def __init__(self, error: Exception) -> None:
        super().__init__(SCRIPT)
        self.error = error

    def generate(self, requests: Sequence[Generation]) -> "FailingStream":
        return FailingStream(self, [[] for _ in requests])


class FailingStream(ScriptedStream):
    async def __anext__(self) -> tuple[int, Segment]:
        if self.policy.gate is not None:
            await self.policy.gate.wait()
        assert isinstance(self.policy, FailingPolicy)
        raise self.policy.error


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("secret"), 500), (ReplicaError("secret"), 503), (TimeoutError("secret"), 500)]
)
async def test_a_failure_is_logged_and_its_details_are_hidden(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    writer = FailingPolicy(error)
    app = endpoint(writer)
    with caplog.at_level(logging.WARNING):
        async with client_of(app) as http:
            plain = await http.post(PATH, json=chat())
            writer.gate = asyncio.Event()
            stream = Connection(app, chat(stream=True))
            await stream.next_text()
            writer.gate.set()
            streamed = json.loads((await stream.next_text()).removeprefix("data: "))
            assert await stream.next_text() == "data: [DONE]\n\n"
            await stream.task
    assert plain.status_code == status
    assert "secret" not in plain.text and "secret" in caplog.text
    assert streamed == plain.json()


async def test_a_search_that_takes_too_long_is_504_and_ends() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer, limits=Limits(timeout_s=0.05))
    async with client_of(app) as http:
        response = await http.post(PATH, json=chat())
        assert (response.status_code, response.headers["x-should-retry"]) == (504, "false")
        assert num_searches(app) == 0
    assert writer.aborted == 1


async def test_every_response_has_the_id_of_its_request_and_so_has_the_log(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"x-request-id": "mine-1"}
    with caplog.at_level(logging.INFO):
        async with client_of(endpoint(policy())) as http:
            answers = [
                await http.post(PATH, json=chat(), headers=headers),
                await http.post(PATH, json=chat(stream=True), headers=headers),
                await http.post(PATH, json=chat(model="other"), headers=headers),
                await http.get("/v1/nothing", headers=headers),
            ]
        async with client_of(endpoint(FailingPolicy(RuntimeError("a fault")))) as http:
            answers.append(await http.post(PATH, json=chat(), headers=headers))
    assert {answer.headers["x-request-id"] for answer in answers} == {"mine-1"}
    assert "request mine-1: completed" in caplog.text and "request mine-1 failed" in caplog.text


@pytest.mark.parametrize("unusable", ["", "a b", "x" * 129])
async def test_a_request_without_a_usable_id_gets_one(unusable: str) -> None:
    async with client_of(endpoint(policy())) as http:
        made = {(await http.get("/healthz", headers={"x-request-id": unusable})).headers["x-request-id"] for _ in "ab"}
    assert len(made) == 2 and all(one.startswith("req-") for one in made)


# clients that leave


@pytest.mark.parametrize("cancelled", [False, True], ids=["disconnected", "cancelled by Serve"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_client_that_leaves_frees_its_work(stream: bool, cancelled: bool) -> None:
    writer = policy()
    gate = writer.gate = asyncio.Event()
    gate.set()

    def judge(text: str) -> float:
        gate.clear()  # a state is live, and the next step will not come
        return 0.5

    reader = TableVerifier(judge)
    app = endpoint(writer, reader, limits=Limits(max_concurrent=1))
    async with client_of(app) as http:
        connection = Connection(app, chat(stream=stream, headrace={"strategy": "beam_search", "n": 2, "beam_width": 1}))
        await until(lambda: not gate.is_set() and len(reader.states) > 1)
        assert num_searches(app) == 1
        if cancelled:
            connection.task.cancel()
        else:
            connection.leave()
        await asyncio.wait([connection.task])
        await until(lambda: num_searches(app) == 0)
        await until(lambda: reader.states == {})
        assert writer.ended.is_set()
        gate.set()
        reader.judge = prefers_2
        assert (await http.post(PATH, json=chat())).status_code == 200
    await until(lambda: reader.states == {})


async def test_a_stream_starts_at_once_and_says_that_the_search_still_runs() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer, keep_alive_s=0.01)
    async with client_of(app):
        connection = Connection(app, chat(stream=True))
        assert '"role": "assistant"' in await connection.next_text()
        assert await connection.next_text() == ": searching\n\n"
        writer.gate.set()
        while "[DONE]" not in await connection.next_text():
            pass
        await connection.task


# the pools' life


async def test_while_the_pools_open_requests_are_503_and_healthz_is_not_ready() -> None:
    opening = asyncio.Event()

    async def slowly(_: AsyncExitStack) -> Pools:
        await opening.wait()
        raise UserError("no such model")

    app = endpoint(policy(), open_pools=slowly)
    async with client_of(app, opened=False) as http:
        assert (await http.get("/healthz")).json() == {"status": "starting"}
        assert (await http.post(PATH, json=chat())).status_code == 503
        opening.set()
        assert isinstance(await app.state.service.opened(), UserError)
        health = await http.get("/healthz")
        assert (health.status_code, health.json()) == (503, {"status": "failed", "reason": "no such model"})
        assert (await http.post(PATH, json=chat())).status_code == 503


async def test_a_fault_while_the_pools_open_is_told() -> None:
    async def badly(_: AsyncExitStack) -> Pools:
        raise RuntimeError("a fault")

    app = endpoint(policy(), open_pools=badly)
    async with client_of(app):
        failure = await app.state.service.opened()
    assert isinstance(failure, HeadraceError) and "a fault" in str(failure)


async def test_a_server_that_stops_while_its_pools_open_does_not_wait_for_them() -> None:
    async def never(_: AsyncExitStack) -> Pools:
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(5), client_of(endpoint(policy(), open_pools=never), opened=False):
        pass


@pytest.mark.parametrize("ready", [True, False])
async def test_healthz_is_ready_only_when_the_pools_are_up(ready: bool) -> None:
    async with client_of(endpoint(policy(), ready=ready)) as http:
        health = await http.get("/healthz")
        probed = await http.head("/healthz")
    assert health.status_code == probed.status_code == (200 if ready else 503)
    assert health.json() == {"status": "ready" if ready else "down", "searches": 0, "queued": 0}


async def test_a_pool_that_is_exhausted_ends_the_service() -> None:
    app = endpoint(FailingPolicy(PoolExhausted("no replica is left")))
    async with client_of(app) as http:
        assert (await http.post(PATH, json=chat())).status_code == 503
        assert (await http.get("/healthz")).json()["status"] == "failed"
        assert app.state.service.failure is not None


async def test_a_server_that_stops_ends_its_searches() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer)
    async with client_of(app) as http:
        held = asyncio.create_task(http.post(PATH, json=chat()))
        await until(lambda: num_searches(app) == 1 and bool(writer.requests))
        app.state.service._closing.set()
        answer = await held
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the server is stopping")
    assert writer.aborted == 1


async def test_a_server_that_drains_takes_no_more_and_answers_with_the_best_found_so_far() -> None:
    writer, reader = ScriptedPolicy({"Q:": ["a\n\n" * 50]}), verifier()
    app = endpoint(writer, reader, limits=Limits(drain_s=0.01))
    async with client_of(app) as http:
        writer.gate = asyncio.Event()
        writer.gate.set()

        def judge(text: str) -> float:
            writer.gate.clear()
            return 0.5

        reader.judge = judge
        held = asyncio.create_task(http.post(PATH, json=chat()))
        await until(lambda: not writer.gate.is_set())  # a step is there, and the next will not come
        draining = asyncio.create_task(app.state.service.drain())
        await until(lambda: writer.aborted > 0)
        writer.gate.set()
        answer = (await held).json()
        await draining
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["headrace"]["end_reason"] == "deadline"
        assert answer["choices"][0]["message"]["content"].startswith("a\n\n")
        refused = await http.post(PATH, json=chat())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        health = await http.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "stopping")


async def test_a_server_that_drains_has_no_empty_answers() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer, limits=Limits(drain_s=0.01))
    async with client_of(app) as http:
        held = asyncio.create_task(http.post(PATH, json=chat()))
        await until(lambda: bool(writer.requests))
        draining = asyncio.create_task(app.state.service.drain())
        await until(lambda: writer.aborted > 0)
        writer.gate.set()
        assert (await held).status_code == 503
        await draining


async def test_thinking_stands_beside_the_answer_and_is_counted() -> None:
    thinks = ThinkingPolicy({"Q:": ["<think>a</think>\n\nAnswer: 1"]}, context_length=2000)
    async with client_of(endpoint(thinks, verifier())) as http:
        plain = (await http.post(PATH, json=chat(seed=5))).json()
        streamed = events(await http.post(PATH, json=chat(seed=5, stream=True)))
    message = plain["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == ("Answer: 1", "<think>a</think>\n\n")
    thinking = plain["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert thinking == 2 * len("<think>a</think>\n\n")
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Answer: 1"
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == "<think>a</think>\n\n"
