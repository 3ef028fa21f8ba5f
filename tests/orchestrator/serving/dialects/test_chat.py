"""Chat requests that are understood, and refusals that name the parameter."""

import json
from typing import Any

import pytest

from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Message, ToolCall
from orchestrator.core.protocols import Sampling
from orchestrator.serving.dialects.chat import Chat, ChatRequest
from orchestrator.serving.dialects.fields import LABELS
from orchestrator.serving.orders import Order
from strategies.best_of_n import BestOfN
from strategies.greedy import Greedy
from tests.orchestrator.serving.dialects.reading import CONFIG, parsed, refusal

PLAIN = {"model": "tiny", "messages": [{"role": "user", "content": "Q:"}]}


def order(**fields: Any) -> Order:
    return parsed(Chat(), json.dumps({**PLAIN, **fields}).encode())


def test_a_plain_request_gets_the_defaults() -> None:
    made = order(seed=7)
    [problem] = made.problems
    assert (problem.messages, problem.raw) == ((Message(role="user", content="Q:"),), None)
    assert (made.sampling, made.seed, made.stream, made.include_usage) == (CONFIG.sampling, 7, False, False)
    assert (made.choices, made.logprobs, made.budget) == (1, None, CONFIG.request_budget)


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
            {
                "role": "assistant",
                "content": "hi",
                "refusal": None,
                "tool_calls": None,
                "annotations": [],
                "reasoning": "hm",
            },
            {"role": "user", "content": "Q:"},
        ]
    )
    assert [message.content for message in made.problems[0].messages] == ["be brief", "hi", "Q:"]


def test_a_developer_speaks_as_the_system_and_names_are_labels() -> None:
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "Q:", "name": "Bob"}]
    assert order(messages=messages).problems[0].messages == (
        Message(role="system", content="be brief"),
        Message(role="user", content="Q:"),
    )


JSON = {"type": "json_object"}


def test_an_answer_may_have_to_be_json() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert json.loads(order(response_format=named).problems[0].json_schema or "") == schema
    assert json.loads(order(response_format=JSON).problems[0].json_schema or "") == JSON_OBJECT
    assert order(response_format={"type": "text"}).problems[0].json_schema is None


JSON_OBJECT = {"type": "object"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def test_a_conversation_may_hold_calls_of_tools_and_what_they_returned() -> None:
    messages = [
        {"role": "user", "content": "Q:"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "2"}]},
    ]
    called = ToolCall(id="c1", name="add", arguments='{"a": 1}')
    assert order(messages=messages).problems[0].messages[1:] == (
        Message(role="assistant", content="", tool_calls=(called,)),
        Message(role="tool", content="2", tool_call_id="c1"),
    )


@pytest.mark.parametrize(("stop", "stops"), [("\n", ["\n"]), (["a", "b"], ["a", "b"]), ([], []), (None, [])])
def test_an_answer_ends_before_a_stop_string(stop: Any, stops: list[str]) -> None:
    assert order(stop=stop).sampling.stop == stops


def test_thinking_and_the_template_are_the_requests_own() -> None:
    made = order(thinking_token_budget=9, chat_template_kwargs={"enable_thinking": True})
    assert made.sampling.max_thinking_tokens == 9
    assert made.problems[0].template == {"enable_thinking": True}


def test_an_effort_is_a_strategy_a_budget_and_how_long_is_thought() -> None:
    high, low = order(reasoning_effort="high"), order(reasoning_effort="low")
    assert high.named.strategy == BestOfN(n=8)
    assert (high.budget.policy_tokens, low.budget) == (500, CONFIG.request_budget)
    assert (low.sampling.max_thinking_tokens, low.problems[0].template) == (5, {"enable_thinking": False})
    assert low.named.strategy == Greedy()


def test_what_a_request_says_itself_goes_over_its_effort() -> None:
    named = order(reasoning_effort="high", model="tiny@greedy")
    assert (named.named.strategy, named.budget.policy_tokens) == (Greedy(), 500)
    assert order(reasoning_effort="high", headrace={"n": 4}).named.strategy == BestOfN(n=4)
    low = order(reasoning_effort="low", thinking_token_budget=2, chat_template_kwargs={"enable_thinking": True})
    assert (low.sampling.max_thinking_tokens, low.problems[0].template) == (2, {"enable_thinking": True})


def test_a_request_may_lower_its_budget_and_never_raise_it() -> None:
    budget = {"policy_tokens": 10, "candidates": 3, "seconds": None}
    assert order(headrace={"budget": budget, "deadline_s": 7}).budget == Budget(
        policy_tokens=10, candidates=3, seconds=7
    )
    assert order(headrace={"budget": {"policy_tokens": 10**9}}).budget == CONFIG.request_budget


def test_parameters_may_stand_in_an_object_of_their_own() -> None:
    assert order(headrace={"strategy": "best_of_n", "params": {"n": 3}}).named.strategy == BestOfN(n=3)
    prompted = order(headrace={"strategy": "token_budget_prompt", "budget": 64}).named
    assert prompted.params["budget"] == 64, "a number is the strategy's own parameter"


def test_parameters_that_ask_for_nothing_are_accepted() -> None:
    order(
        n=1,
        stop=None,
        tools=[],
        logprobs=False,
        tool_choice="auto",
        response_format={"type": "text"},
        user="u",
        metadata={"a": "b"},
    )


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 2}, "n", "greedy with these parameters makes 1 candidates, got n=2"),
        ({"stop": ""}, "stop", "1 to 1000 characters"),
        ({"stop": ["a", ""]}, "stop", "1 to 1000 characters"),
        ({"stop": list("abcde")}, "stop", "at most 4 strings, got 5"),
        ({"stop": 5}, "stop", "a string or a list of strings"),
        ({"top_logprobs": 2}, "top_logprobs", "only with logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs", "at most 20"),
        ({"thinking_token_budget": 0}, "thinking_token_budget", "greater than or equal to 1"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "got 'huge', wanted one of low, high"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", "no argument"),
        ({"headrace": {"budget": {"tokens": 5}}}, "headrace.budget", "tokens"),
        ({"headrace": {"budget": {"policy_tokens": 0}}}, "headrace.budget", "must be >= 1"),
        ({"headrace": {"deadline_s": 61}}, "headrace.deadline_s", "<= 60 on this server, got 61"),
        ({"headrace": {"return_trace": 1}}, "headrace.return_trace", "boolean"),
        ({"headrace": {"params": 5}}, "headrace.params", "object"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "wanted a json_schema"),
        ({"response_format": JSON, "headrace": {"strategy": "beam_search"}}, "response_format", "whole completions"),
        ({"response_format": JSON, "headrace": {"strategy": "budget_forcing"}}, "response_format", "stops it early"),
        ({"response_format": JSON, "headrace": {"strategy": "self_refine"}}, "response_format", "changes the prompt"),
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
        ({"messages": [{"role": "user", "content": "a"}] * 5}, "messages", "at most 4, got 5"),
        ({"messages": [{"role": "oracle", "content": "a"}]}, "messages[0].role", "'assistant' or 'tool'"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0]", "tool_call_id is missing"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "content is missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]", "content is missing"),
        ({"messages": [{"role": "user", "content": "a", "reasoning": "b"}]}, "messages[0]", "reasoning is not"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{"}}]}]},
            "messages[0].tool_calls[0].function",
            "arguments must be JSON",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "text parts"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "b"}]}, "messages[0]", "tool_call_id is not"),
        ({"messages": [{"role": "user", "content": "a", "name": 5}]}, "messages[0].name", "string"),
        ({"model": 5}, "model", "string"),
    ],
)
def test_what_cannot_be_honoured_is_400_and_named(fields: dict[str, Any], param: str, words: str) -> None:
    error = refusal(Chat(), {**PLAIN, **fields})
    assert (error.status, error.type, error.param) == (400, "invalid_request_error", param)
    assert words in error.message


def test_null_is_as_good_as_a_field_that_is_not_there() -> None:
    optional = [*ChatRequest.model_fields.keys() - {"model", "messages", "seed"}, *Chat.neutral, *LABELS]
    assert order(seed=7, **dict.fromkeys(optional)) == order(seed=7)
    options = {"include_usage": None, "include_obfuscation": None}
    assert not order(stream=True, stream_options=options).include_usage


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_parameter_is_named(name: str) -> None:
    error = refusal(Chat(), {key: value for key, value in PLAIN.items() if key != name})
    assert (error.param, error.message) == (name, f"{name} is missing")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"temperature": NaN}', b'{"model": "\\ud800"}'],
    ids=["empty", "cut off", "list", "null", "not UTF-8", "deep", "NaN", "half a character"],
)
def test_a_body_that_is_no_object_is_400(body: bytes) -> None:
    error = refusal(Chat(), body)
    assert (error.status, error.param) == (400, None)
    assert len(error.message) < 200
