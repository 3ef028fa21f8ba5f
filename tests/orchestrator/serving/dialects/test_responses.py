"""The Responses API, as OpenAI's own client meets it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from orchestrator.core.nouns import Message
from orchestrator.serving.dialects.responses import Responses, ResponsesRequest
from orchestrator.serving.orders import Order
from strategies.best_of_n import BestOfN
from tests.fakes import ScriptedPolicy, TableVerifier, ThinkingPolicy
from tests.orchestrator.serving.dialects.reading import parsed, refusal
from tests.orchestrator.serving.endpoint import client_of, endpoint

PLAIN = {"model": "tiny", "input": "Q:"}


def order(**fields: Any) -> Order:
    return parsed(Responses(), json.dumps({**PLAIN, **fields}).encode())


@asynccontextmanager
async def openai_of(policy: ScriptedPolicy, verifier: TableVerifier | None = None) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(endpoint(policy, verifier)) as http:
        yield openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)


def thinks() -> ThinkingPolicy:
    return ThinkingPolicy({"Q:": ["<think>a</think>\n\nb\n\nAnswer: 1"]}, context_length=2000)


# what is asked


def test_input_is_a_text_or_a_conversation_after_its_instructions() -> None:
    assert order().problems[0].messages == (Message(role="user", content="Q:"),)
    made = order(
        instructions="be brief",
        input=[
            {"role": "user", "content": "hello"},
            {"id": "rs_1", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "hi", "annotations": []}],
            },
            {"role": "developer", "content": [{"type": "input_text", "text": "Q:"}]},
        ],
    )
    told = [(message.role, message.content) for message in made.problems[0].messages]
    assert told == [("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("system", "Q:")]


def test_reasoning_has_an_effort_and_logprobs_are_included_when_asked_for() -> None:
    assert order(reasoning={"effort": "high", "summary": "auto"}).named.strategy == BestOfN(n=8)
    assert order(max_output_tokens=7).sampling.max_tokens == 7
    assert (order().logprobs, order(top_logprobs=3).logprobs) == (None, 3)
    assert order(include=["message.output_text.logprobs"]).logprobs == 0


def test_null_is_as_good_as_a_field_that_is_not_there() -> None:
    optional = [*ResponsesRequest.model_fields.keys() - {"model", "input", "seed"}, *Responses.neutral]
    assert order(seed=7, **dict.fromkeys(optional)) == order(seed=7)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": []}, "input", "at least 1"),
        ({"input": 5}, "input", "list"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", "wanted 1 to 4 messages, got 0"),
        ({"input": [{"role": "user", "content": "a"}] * 5}, "input", "wanted 1 to 4 messages, got 5"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]", "call_id is missing"),
        ({"input": [{"content": [{"type": "input_image"}]}]}, "input[0].content", "text parts"),
        ({"max_output_tokens": 201}, "max_output_tokens", "must be <= 200"),
        ({"store": True}, "store", "nothing is stored"),
        ({"store": 0}, "store", "nothing is stored"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].name", "missing"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format", "wanted a schema"),
        ({"text": {"format": {"type": "json_object"}}, "model": "tiny@mcts"}, "text.format", "whole completions"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]", "message.output_text.logprobs"),
        ({"reasoning": {"effort": "huge"}}, "reasoning_effort", "wanted one of low, high"),
        ({"messages": []}, "messages", "unknown parameter"),
    ],
)
def test_what_cannot_be_honoured_is_400_and_named(fields: dict[str, Any], param: str, words: str) -> None:
    error = refusal(Responses(), {**PLAIN, **fields})
    assert (error.status, error.param) == (400, param)
    assert words in error.message


# what is answered


async def test_a_response_has_its_text_its_thinking_and_what_it_cost() -> None:
    async with openai_of(thinks(), TableVerifier(lambda text: 0.5)) as client:
        response = await client.responses.create(model="tiny", input="Q:", extra_body={"headrace": {"n": 1}})
    assert (response.status, response.output_text) == ("completed", "b\n\nAnswer: 1")
    reasoning, message = response.output
    assert reasoning.type == "reasoning" and reasoning.content is not None
    assert reasoning.content[0].text == "<think>a</think>\n\n"
    assert message.type == "message" and message.status == "completed"
    usage = response.usage
    assert usage is not None and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == len("<think>a</think>\n\n")
    report = response.model_extra["headrace"] if response.model_extra else {}
    assert (report["answer"], report["score"], report["steps"][0]["score"]) == ("1", 0.5, 0.5)


async def test_an_answer_that_a_cap_cut_is_incomplete() -> None:
    async with openai_of(thinks()) as client:
        response = await client.responses.create(model="tiny", input="Q:", max_output_tokens=3)
        stream = client.responses.stream(model="tiny", input="Q:", max_output_tokens=3)
        async with stream as events:
            names = [event.type async for event in events]
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert names[-1] == "response.incomplete"


async def test_a_stream_brings_the_items_of_the_output_each_with_its_events() -> None:
    async with openai_of(thinks()) as client:
        stream = await client.responses.create(model="tiny", input="Q:", stream=True, top_logprobs=1)
        events = [event async for event in stream]
    part = ["output_item.added", "content_part.added"]
    done = ["content_part.done", "output_item.done"]
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *(*part, "reasoning_text.delta", "reasoning_text.done", *done),
        *(*part, "output_text.delta", "output_text.delta", "output_text.done", *done),
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == "b\n\nAnswer: 1"
    assert [token.token for token in deltas[0].logprobs] == ["b", "\n", "\n"]
    last = events[-1]
    assert last.type == "response.completed" and last.response.output_text == "b\n\nAnswer: 1"


async def test_the_clients_own_stream_puts_the_response_together() -> None:
    async with openai_of(thinks()) as client, client.responses.stream(model="tiny", input="Q:") as stream:
        response = await stream.get_final_response()
    assert response.output_text == "b\n\nAnswer: 1"


async def test_a_failure_ends_the_stream_with_a_failed_response(caplog: pytest.LogCaptureFixture) -> None:
    policy = ScriptedPolicy({"Q:": ["a\n\nb"]})
    policy.fails_after = 1
    async with openai_of(policy) as client:
        events = [event async for event in await client.responses.create(model="tiny", input="Q:", stream=True)]
    last = events[-1]
    assert last.type == "response.failed" and last.response.error is not None
    assert "internal error" in last.response.error.message and "a scripted failure" in caplog.text
