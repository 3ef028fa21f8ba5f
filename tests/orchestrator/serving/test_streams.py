"""Streams that are true: answers as they are written, searches as they happen, readers that are slow."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from orchestrator.serving import searches
from orchestrator.serving.dialects import DIALECTS
from orchestrator.serving.feed import _MOST_WAITING, Feed
from tests.fakes import CoinPolicy, ScriptedPolicy, TableVerifier, ThinkingPolicy
from tests.orchestrator.serving.endpoint import Connection, chat, client_of, endpoint, num_searches
from tests.waiting import until

CHAT, COMPLETIONS, RESPONSES = (dialect.path for dialect in DIALECTS)
BEAM = {"strategy": "beam_search", "n": 2, "beam_width": 1}
TREE = {"Q:": ["a\n\n-", "b\n\n-"], "a\n\n": ["Answer: 1"]}


def thinks() -> ThinkingPolicy:
    return ThinkingPolicy({"Q:": ["<think>ab</think>\n\ncd\n\nAnswer: 1"], "</think>": ["\n\ncd\n\nAnswer: 1"]})


def judge(text: str) -> float:
    return (1 + text.count("a")) / 5


def body_of(path: str, **fields: Any) -> dict[str, Any]:
    asked = {CHAT: {"messages": [{"role": "user", "content": "Q:"}]}, COMPLETIONS: {"prompt": "Q:"}}
    return {"model": "tiny", "stream": True, **asked.get(path, {"input": "Q:"}), **fields}


def data_of(text: str) -> list[dict[str, Any]]:
    lines = [line for piece in text.split("\n\n") for line in piece.split("\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def streamed(http: httpx.AsyncClient, path: str, **fields: Any) -> list[dict[str, Any]]:
    response = await http.post(path, json=body_of(path, **fields))
    assert response.status_code == 200, response.text
    return data_of(response.text)


def told(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for chunk in chunks for event in (chunk.get("headrace") or {}).get("events", ())]


def deltas(path: str, chunks: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Pieces of the thinking, and of the answer."""
    if path == CHAT:
        pieces = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        return [one["reasoning"] for one in pieces if "reasoning" in one], [
            one["content"] for one in pieces if one.get("content")
        ]
    if path == COMPLETIONS:
        return [], [text for chunk in chunks for choice in chunk["choices"] if (text := choice["text"])]
    texts: dict[str, list[str]] = {"reasoning_text": [], "output_text": []}
    for chunk in chunks:
        kind = chunk["type"].removeprefix("response.").removesuffix(".delta")
        if chunk["type"].endswith("_text.delta") and kind in texts and chunk["delta"]:
            texts[kind].append(chunk["delta"])
    return texts["reasoning_text"], texts["output_text"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
@pytest.mark.parametrize("model", ["tiny@greedy", "tiny@budget_forcing", "tiny@self_consistency"])
async def test_an_answer_that_is_known_early_comes_token_by_token(path: str, model: str) -> None:
    params = {"n": 1} if "consistency" in model else {}
    async with client_of(endpoint(thinks())) as http:
        thoughts, answer = deltas(path, await streamed(http, path, model=model, headrace=params))
    assert "".join([*thoughts, *answer]) == "<think>ab</think>\n\ncd\n\nAnswer: 1"
    assert len(thoughts + answer) > 10
    if path != COMPLETIONS:
        assert "".join(thoughts).strip() == "<think>ab</think>"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_streamed_answer_ends_right_at_its_stop_text(path: str) -> None:
    policy = ScriptedPolicy({"Q:": ["ab\n\nAnswer: 1\n\nQ: next"]})
    async with client_of(endpoint(policy)) as http:
        chunks = await streamed(http, path, stop="\n\nQ")
    assert "".join(deltas(path, chunks)[1]) == "ab\n\nAnswer: 1"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_first_token_is_sent_before_the_second_is_written() -> None:
    policy = ScriptedPolicy({"Q:": ["abc"]})
    policy.gate = asyncio.Event()
    app = endpoint(policy)
    async with client_of(app):
        connection = Connection(app, chat(stream=True))
        assert "assistant" in await connection.next_text()
        policy.gate.set()
        await until(lambda: bool(connection.sent.qsize()))
        policy.gate.clear()
        [chunk] = data_of(await connection.next_text())
        policy.gate.set()
        assert chunk["choices"][0]["delta"]["content"] in ("a", "ab")
        await connection.task


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
async def test_what_happens_in_a_search_rides_in_the_stream_when_asked(path: str) -> None:
    async with client_of(endpoint(ScriptedPolicy(TREE), TableVerifier(judge))) as http:
        chunks = await streamed(http, path, headrace={**BEAM, "events": True})
        quiet = await streamed(http, path, headrace=BEAM)
    events = told(chunks)
    kinds = {event["type"] for event in events}
    assert kinds == {"fork", "step", "score", "prune", "budget", "answer"}
    assert [event["path"] for event in events if event["type"] == "prune"] == [[1]]
    assert events[-1]["type"] == "answer" and events[-1]["answer"] == "1"
    assert all(event["at"] >= 0 for event in events) and not told(quiet)
    assert "".join(deltas(path, chunks)[1]) == "a\n\nAnswer: 1"


async def test_events_of_an_early_answer_are_beside_its_text() -> None:
    async with client_of(endpoint(ScriptedPolicy(TREE))) as http:
        chunks = await streamed(http, CHAT, headrace={"events": True})
    texts = [event["text"] for event in told(chunks) if event["type"] == "text"]
    assert texts == deltas(CHAT, chunks)[1]


async def test_events_in_words_are_reasoning() -> None:
    async with client_of(endpoint(ScriptedPolicy(TREE), TableVerifier(judge))) as http:
        chunks = await streamed(http, CHAT, headrace={**BEAM, "events": "text"})
        silent = await streamed(http, CHAT, headrace={**BEAM, "events": True})
    words = "".join(deltas(CHAT, chunks)[0])
    assert "[prompt] goes on in 2 ways" in words and "[2] given up" in words and "answer 1" in words
    assert not deltas(CHAT, silent)[0] and told(chunks)


async def test_openais_client_reads_a_chat_stream_with_events() -> None:
    app = endpoint(ScriptedPolicy(TREE), TableVerifier(judge))
    async with (
        client_of(app) as http,
        openai.AsyncOpenAI(base_url="http://test/v1", api_key="k", http_client=http) as client,
    ):
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Q:"}],
            stream=True,
            extra_body={"headrace": {**BEAM, "events": True}},
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "a\n\nAnswer: 1"


async def test_openais_client_shows_the_search_as_a_summary_of_the_reasoning() -> None:
    app = endpoint(ScriptedPolicy(TREE), TableVerifier(judge))
    async with (
        client_of(app) as http,
        openai.AsyncOpenAI(base_url="http://test/v1", api_key="k", http_client=http) as client,
    ):
        asked: Any = {"headrace": {**BEAM, "events": True}}
        async with client.responses.stream(model="tiny", input="Q:", extra_body=asked) as stream:
            summary = "".join(
                [event.delta async for event in stream if event.type == "response.reasoning_summary_text.delta"]
            )
            response = await stream.get_final_response()
    assert "[2] given up" in summary and response.output_text == "a\n\nAnswer: 1"
    reasoning = response.output[0]
    assert reasoning.type == "reasoning" and reasoning.summary[0].text == summary


async def test_events_are_of_streams_only() -> None:
    async with client_of(endpoint(ScriptedPolicy(TREE))) as http:
        response = await http.post(CHAT, json=chat(headrace={"events": True}))
        odd = await http.post(CHAT, json=chat(stream=True, headrace={"events": "all"}))
    assert response.json()["error"]["param"] == odd.json()["error"]["param"] == "headrace.events"


class Stalling(Connection):
    """A client that reads nothing for a while: what is sent waits."""

    def __init__(self, app: Any, body: dict[str, Any]) -> None:
        self.reads = asyncio.Event()
        super().__init__(app, body)

    async def _send(self, message: dict[str, Any]) -> None:
        await super()._send(message)
        await self.reads.wait()


async def test_a_reader_that_stalls_holds_no_more_than_a_bounded_feed_and_loses_no_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feeds: list[Feed] = []
    monkeypatch.setattr(searches, "Feed", lambda **options: feeds.append(Feed(**options)) or feeds[-1])
    app = endpoint(CoinPolicy(), TableVerifier(judge))
    asked = {"strategy": "mcts", "simulations": 64, "expansion": 16, "events": True}
    async with client_of(app):
        connection = Stalling(app, chat(stream=True, headrace=asked))
        await until(lambda: bool(feeds))
        await until(lambda: num_searches(app) == 0)
        assert _MOST_WAITING <= len(feeds[0]) <= _MOST_WAITING + 1
        connection.reads.set()
        await connection.task
    chunks = data_of("".join(str(message["body"], "utf-8") for message in drained(connection) if "body" in message))
    events = told(chunks)
    assert events[-1]["type"] == "dropped" and events[-1]["count"] > 0
    assert "answer" in {event["type"] for event in events}
    report = chunks[-1]["headrace"]
    assert "".join(deltas(CHAT, chunks)[1]) and report["end_reason"] == "completed"


def drained(connection: Connection) -> list[dict[str, Any]]:
    return [connection.sent.get_nowait() for _ in range(connection.sent.qsize())]
