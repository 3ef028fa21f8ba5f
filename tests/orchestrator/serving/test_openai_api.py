"""Requests that are understood, and refusals that name the parameter."""

import json
from typing import Any

import pytest

from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Sampling
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import Limits
from orchestrator.serving.errors import ApiError
from orchestrator.serving.openai_api import _LABELS, _NEUTRAL, ChatRequest, Order, parse
from strategies import STRATEGIES

DEFAULTS = Sampling(temperature=0.7, top_p=0.9, max_tokens=100)
LIMITS = Limits(max_tokens=200, max_messages=3)
CATALOG = Catalog(
    alias="tiny", default_strategy="greedy", strategies=STRATEGIES, params={}, has_verifier=True, max_n=64
)
PLAIN = {"model": "tiny", "messages": [{"role": "user", "content": "Q:"}]}


def order(**fields: Any) -> Order:
    return parsed(json.dumps({**PLAIN, **fields}).encode())


def parsed(body: bytes) -> Order:
    return parse(body, request_id="r1", catalog=CATALOG, defaults=DEFAULTS, limits=LIMITS)


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parsed(body)
    return caught.value


def test_a_plain_request_gets_the_defaults() -> None:
    made = order(seed=7)
    assert made.messages == (Message(role="user", content="Q:"),)
    assert (made.sampling, made.seed, made.stream, made.include_usage) == (DEFAULTS, 7, False, False)


def test_without_a_seed_draws_differ() -> None:
    assert order().seed != order().seed


def test_a_seed_that_the_server_chose_survives_a_client_in_javascript() -> None:
    assert all(int(float(seed)) == seed for seed in (order().seed for _ in range(100)))


def test_sampling_comes_from_the_request() -> None:
    made = order(temperature=0, top_p=1, max_completion_tokens=200)
    assert made.sampling == Sampling(temperature=0, top_p=1, max_tokens=200)


def test_messages_may_be_lists_of_text_parts_and_repeat_an_earlier_answer() -> None:
    made = order(
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
            {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "annotations": []},
            {"role": "user", "content": "Q:"},
        ]
    )
    assert [message.content for message in made.messages] == ["be brief", "hi", "Q:"]


def test_a_developer_speaks_as_the_system_and_names_are_labels() -> None:
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "Q:", "name": "Bob"}]
    assert order(messages=messages).messages == (
        Message(role="system", content="be brief"),
        Message(role="user", content="Q:"),
    )


def test_parameters_that_ask_for_nothing_are_accepted() -> None:
    order(n=1, stop=None, tools=[], logprobs=False, response_format={"type": "text"}, user="u", metadata={"a": "b"})


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 2}, "n", "headrace.n"),
        ({"stop": ["\n"]}, "stop", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"temperatur": 1}, "temperatur", "did you mean temperature?"),
        ({"top_k": 5}, "top_k", "unknown parameter"),
        ({"temperature": "1"}, "temperature", "got '1'"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0, got -1"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 201}, "max_tokens", "must be <= 200 on this server, got 201"),
        ({"max_completion_tokens": 201}, "max_completion_tokens", "must be <= 200"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "differs"),
        ({"seed": 2**64}, "seed", "less than"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown parameter"),
        ({"headrace": "beam_search"}, "headrace", "dictionary"),
        ({"headrace": {"n": 0}}, "headrace.n", "no such parameter"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hello"}, "messages", "list"),
        ({"messages": [{"role": "user", "content": "a"}] * 4}, "messages", "at most 3, got 4"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "'system', 'user' or 'assistant'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "text parts"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "b"}]}, "messages[0]", "tool_call_id is not"),
        ({"messages": [{"role": "user", "content": "a", "name": 5}]}, "messages[0].name", "string"),
        ({"model": None}, "model", "string"),
    ],
)
def test_what_cannot_be_honoured_is_400_and_named(fields: dict[str, Any], param: str, words: str) -> None:
    error = refusal(json.dumps({**PLAIN, **fields}).encode())
    assert (error.status, error.type, error.param) == (400, "invalid_request_error", param)
    assert words in error.message


def test_null_is_as_good_as_a_field_that_is_not_there() -> None:
    optional = [*ChatRequest.model_fields.keys() - {"model", "messages", "seed"}, *_NEUTRAL, *_LABELS]
    assert order(seed=7, **dict.fromkeys(optional)) == order(seed=7)
    options = {"include_usage": None, "include_obfuscation": None}
    assert not order(stream=True, stream_options=options).include_usage


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_parameter_is_named(name: str) -> None:
    error = refusal(json.dumps({key: value for key, value in PLAIN.items() if key != name}).encode())
    assert (error.param, error.message) == (name, f"{name} is missing")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"temperature": NaN}', b'{"model": "\\ud800"}'],
    ids=["empty", "cut off", "list", "null", "not UTF-8", "deep", "NaN", "half a character"],
)
def test_a_body_that_is_no_object_is_400(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.param) == (400, None)
    assert len(error.message) < 200
