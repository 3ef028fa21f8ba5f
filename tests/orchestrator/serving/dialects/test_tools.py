"""Calls of tools, as OpenAI's own client meets them, over a policy whose calls are `[name arguments]`."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from orchestrator.core.nouns import Message, ToolCall
from orchestrator.core.tools import Call, CallingReply, Reply, ToolChoice, Tools, calling_reply
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.dialects.chat import Chat
from orchestrator.serving.dialects.responses import Responses
from orchestrator.serving.dialects.tools import told_tools
from orchestrator.serving.errors import ApiError
from orchestrator.serving.orders import Order
from strategies.greedy import Greedy
from tests.fakes import ScriptedPolicy, TableVerifier, ThinkingPolicy
from tests.orchestrator.serving.dialects.reading import SHOP, parsed, refusal
from tests.orchestrator.serving.endpoint import client_of, endpoint

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "time"}}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Q:"}], "tools": [WEATHER, TIME]}
FLAT: list[Any] = [{"type": "function", **tool["function"], "strict": False} for tool in (WEATHER, TIME)]  # type: ignore[dict-item]
RESPONSES: dict[str, Any] = {"model": "tiny", "input": "Q:", "tools": FLAT}
OSLO, BERGEN = '[weather {"city": "Oslo"}]', '[weather {"city":  "Bergen"}]'


class CallingPolicy(ThinkingPolicy):
    """Implements `ReadsCalls`."""

    tool_parser: str | None = "brackets"

    async def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
        found = []
        for reply in replies:
            calls = [Call(name=name, arguments=given) for name, given in re.findall(r"\[(\w+) (.*?)\]", reply.text)]
            found.append(calling_reply(tools, reply.text.split("[")[0], calls))
        return found


@asynccontextmanager
async def openai_of(policy: ScriptedPolicy, verifier: TableVerifier | None = None) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(endpoint(policy, verifier)) as http:
        yield openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)


def order(**fields: Any) -> Order:
    return parsed(Chat(), json.dumps({**CHAT, **fields}).encode())


def writes(*replies: str) -> CallingPolicy:
    return CallingPolicy({"Q:": list(replies)})


# what is asked


async def test_a_call_of_a_strict_function_that_does_not_fit_its_parameters_is_none() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
    wrong, unparsed = '[weather {"town": "Oslo"}]', "[weather Oslo]"
    for replies, called in (((wrong, OSLO, unparsed), OSLO), ((wrong, unparsed, wrong), None)):
        async with openai_of(writes(*replies), TableVerifier(lambda text: 0.9 if wrong in text else 0.5)) as client:
            answer = await client.chat.completions.create(
                **{**CHAT, "tools": [strict, TIME]}, extra_body={"headrace": {"strategy": "best_of_n", "n": 3}}, n=3
            )
        calls = [choice.message.tool_calls for choice in answer.choices]
        assert [f"[weather {each[0].function.arguments}]" for each in calls if each] == ([called] if called else [])
        assert {choice.finish_reason for choice in answer.choices} == ({"stop", "tool_calls"} if called else {"stop"})


def test_tools_reach_the_chat_template_in_both_dialects() -> None:
    [problem] = order().problems
    assert problem.prompt.template["tools"] == [WEATHER, TIME]
    [same] = parsed(Responses(), json.dumps(RESPONSES).encode()).problems
    assert same.prompt == problem.prompt


def test_tools_that_may_not_be_called_are_not_shown() -> None:
    made = order(tool_choice="none", stream=True)
    assert "tools" not in made.problems[0].prompt.template
    assert made.shows_early and not order(stream=True).shows_early


def test_a_call_that_is_forced_is_held_to_its_json_schema() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    [problem] = order(tool_choice=named).problems
    assert json.loads(problem.json_schema or "") == PARAMETERS
    [problem] = order(tool_choice="required", parallel_tool_calls=False).problems
    schema = json.loads(problem.json_schema or "")
    assert (schema["minItems"], schema["maxItems"]) == (1, 1)
    weather, time = schema["items"]["anyOf"]
    assert weather["properties"] == {"name": {"type": "string", "enum": ["weather"]}, "parameters": PARAMETERS}
    assert time["properties"]["parameters"] == {"type": "object", "properties": {}}
    flat = {"tool_choice": {"type": "function", "name": "weather"}}
    [same] = parsed(Responses(), json.dumps({**RESPONSES, **flat}).encode()).problems
    assert same.tools == order(tool_choice=named).problems[0].tools


@pytest.mark.parametrize(
    ("choice", "strict"), [(ToolChoice.NONE, False), (ToolChoice.AUTO, True), (ToolChoice.REQUIRED, True)]
)
def test_a_response_says_of_each_tool_whether_its_calls_fit_its_parameters(choice: ToolChoice, strict: bool) -> None:
    held = frozenset({"weather"}) if choice is ToolChoice.AUTO else frozenset[str]()
    weather, time = told_tools(Tools(given=(WEATHER, TIME), choice=choice, strict=held))["tools"]
    assert (weather["strict"], time["strict"]) == (strict, choice is ToolChoice.REQUIRED)


def test_definitions_in_parameters_stand_at_the_top_of_the_schema_of_calls() -> None:
    own = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}}
    given = {"type": "function", "function": {"name": "f", "parameters": own}}
    schema = json.loads(Tools(given=(given,), choice=ToolChoice.REQUIRED).json_schema or "")
    assert schema["$defs"] == own["$defs"]
    assert "$defs" not in schema["items"]["anyOf"][0]["properties"]["parameters"]


def test_calls_and_what_they_returned_are_a_conversation_in_responses_too() -> None:
    made = parsed(
        Responses(),
        json.dumps(
            {
                "model": "tiny",
                "input": [
                    {"role": "user", "content": "Q:"},
                    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}"},
                    {
                        "type": "function_call",
                        "call_id": "c2",
                        "name": "time",
                        "arguments": "{}",
                        "status": "completed",
                    },
                    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
                ],
            }
        ).encode(),
    )
    calls = (ToolCall(id="c1", name="weather", arguments="{}"), ToolCall(id="c2", name="time", arguments="{}"))
    assert made.problems[0].messages == (
        Message(role="user", content="Q:"),
        Message(role="assistant", content="", tool_calls=calls),
        Message(role="tool", content="rain", tool_call_id="c1"),
    )


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools[0].type", "'function'"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [TIME, TIME]}, "tools[1]", "'time' is the name of an earlier one"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": f"f{i}",
                            "strict": True,
                            "parameters": {"anyOf": [{"type": "null"}] * 900},
                        },
                    }
                    for i in range(3)
                ]
            },
            "tools",
            "have 2,703 keywords, wanted at most 2,000",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "no"}}}]},
            "tools[0].function.strict",
            "no JSON schema: 'no' is not valid",
        ),
        ({"tool_choice": "any"}, "tool_choice", "wanted none, auto, required or"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "wanted none, auto, required or"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "one of weather, time"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "no tools to call"),
        ({"tool_choice": "required", "model": "tiny@beam_search"}, "tool_choice", "whole completions"),
        ({"model": "tiny@self_refine"}, "tools", "changes the prompt"),
        ({"logprobs": True}, "logprobs", "not with tools"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not with tools"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "boolean"),
    ],
)
def test_what_cannot_be_honoured_is_400_and_named(fields: dict[str, Any], param: str, words: str) -> None:
    error = refusal(Chat(), {**CHAT, **fields})
    assert (error.status, error.param) == (400, param)
    assert words in error.message


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"type": "function_call", "name": "f"}, "call_id is missing"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}, "arguments must be JSON"),
        ({"type": "function_call_output", "call_id": "c"}, "output is missing"),
        ({"role": "user", "content": "a", "call_id": "c"}, "call_id is not supported"),
    ],
)
def test_a_call_in_the_input_has_all_its_fields_and_no_others(item: dict[str, Any], words: str) -> None:
    error = refusal(Responses(), {"model": "tiny", "input": [item]})
    assert (error.status, error.param) == (400, "input[0]")
    assert words in error.message


async def test_a_policy_without_a_parser_is_told_no_tools() -> None:
    deaf = writes("a")
    deaf.tool_parser = None
    for policy in (ScriptedPolicy({"Q:": ["a"]}), deaf):
        async with openai_of(policy) as client:
            with pytest.raises(openai.BadRequestError, match=r"policy\.tool_parser") as caught:
                await client.chat.completions.create(**CHAT)
            assert caught.value.param == "tools"
            await client.chat.completions.create(**CHAT, tool_choice="none")


def test_a_chat_api_is_handed_no_tools() -> None:
    catalog = Catalog(
        alias="tiny",
        default_strategy="greedy",
        strategies={"greedy": Greedy},
        params={},
        has_verifier=False,
        tells_tokens=False,
        max_n=1,
    )
    with pytest.raises(ApiError, match="chat API") as caught:
        Chat().order(CHAT, "r1", replace(SHOP, catalog=catalog))
    assert caught.value.param == "tools"


# what is answered


async def test_calls_are_told_beside_the_words_before_them() -> None:
    async with openai_of(writes(f"Let me look.{OSLO}{BERGEN}")) as client:
        reply = await client.chat.completions.create(**CHAT)
    [choice] = reply.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    told = [call for call in choice.message.tool_calls or () if call.type == "function"]
    assert [(call.function.name, call.function.arguments) for call in told] == [
        ("weather", '{"city": "Oslo"}'),
        ("weather", '{"city":  "Bergen"}'),
    ]
    first, second = (call.id for call in told)
    assert first.startswith("call_") and second.startswith("call_") and first != second


async def test_an_answer_that_calls_nothing_is_a_text_as_ever() -> None:
    async with openai_of(writes("Answer: 4")) as client:
        [choice] = (await client.chat.completions.create(**CHAT)).choices
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("stop", "Answer: 4", None)


async def test_without_words_the_content_is_null_and_one_call_is_told_where_one_may_be_made() -> None:
    async with openai_of(writes(f"{OSLO}{BERGEN}")) as client:
        [choice] = (await client.chat.completions.create(**CHAT, parallel_tool_calls=False)).choices
    assert choice.message.content is None
    assert len(choice.message.tool_calls or ()) == 1


async def test_a_stream_tells_each_call_with_its_index() -> None:
    async with openai_of(writes(f"Hm.{OSLO}{BERGEN}")) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "Hm."
    told = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.index, call.type, call.function and call.function.name) for call in told if call.id] == [
        (0, "function", "weather"),
        (1, "function", "weather"),
    ]
    for index, arguments in enumerate(('{"city": "Oslo"}', '{"city":  "Bergen"}')):
        parts = [call.function.arguments for call in told if call.index == index and call.function]
        assert "".join(part or "" for part in parts) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_equal_calls_are_equal_answers_in_a_vote() -> None:
    spelled = ['[weather {"city": "Rome", "day": 1}]', OSLO, '[weather {"day": 1,"city":"Rome"}]', "Answer: 1"]
    extra = {"headrace": {"strategy": "self_consistency", "n": 4}}
    async with openai_of(writes(*spelled)) as client:
        reply = await client.chat.completions.create(**CHAT, extra_body=extra)
    [call] = reply.choices[0].message.tool_calls or ()
    assert call.type == "function" and json.loads(call.function.arguments) == {"city": "Rome", "day": 1}
    told = (reply.model_extra or {})["headrace"]
    assert json.loads(told["answer"]) == [{"arguments": {"city": "Rome", "day": 1}, "name": "weather"}]


async def test_calls_are_scored_like_answers() -> None:
    async with openai_of(writes(OSLO, BERGEN), TableVerifier(lambda text: 0.9 if "Bergen" in text else 0.1)) as client:
        reply = await client.chat.completions.create(**CHAT, n=2)
    told = [(choice.message.tool_calls or [])[0] for choice in reply.choices]
    assert [call.type == "function" and json.loads(call.function.arguments)["city"] for call in told] == [
        "Bergen",
        "Oslo",
    ]
    assert len({call.id for call in told}) == 2


async def test_a_function_that_is_named_is_called_with_the_json_that_was_written() -> None:
    policy = ScriptedPolicy({"Q:": ['{"city": "Oslo"}']})
    async with openai_of(policy) as client:
        [choice] = (
            await client.chat.completions.create(
                **CHAT, tool_choice={"type": "function", "function": {"name": "weather"}}
            )
        ).choices
    [call] = choice.message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert json.loads(policy.requests[0].json_schema or "") == PARAMETERS


async def test_required_calls_are_read_from_their_json() -> None:
    written = '[{"name": "time", "parameters": {}}, {"name": "weather", "parameters": {"city": "Oslo"}}]'
    async with openai_of(ScriptedPolicy({"Q:": [written]})) as client:
        [choice] = (await client.chat.completions.create(**CHAT, tool_choice="required")).choices
    told = [call for call in choice.message.tool_calls or () if call.type == "function"]
    assert [(call.function.name, call.function.arguments) for call in told] == [
        ("time", "{}"),
        ("weather", '{"city": "Oslo"}'),
    ]


async def test_calls_that_a_cap_cut_short_are_a_text_of_length() -> None:
    async with openai_of(ScriptedPolicy({"Q:": ['[{"name": "time", "parameters": {}}]']})) as client:
        [choice] = (await client.chat.completions.create(**CHAT, tool_choice="required", max_tokens=9)).choices
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("length", '[{"name":', None)


async def test_in_responses_calls_are_items_and_the_request_is_said_again() -> None:
    async with openai_of(writes(f"Hm.{OSLO}{BERGEN}")) as client:
        response = await client.responses.create(**RESPONSES)
    message, first, second = response.output
    assert (response.status, response.output_text, message.type) == ("completed", "Hm.", "message")
    assert first.type == "function_call" and second.type == "function_call"
    assert (first.name, first.arguments, first.status) == ("weather", '{"city": "Oslo"}', "completed")
    assert first.call_id.startswith("call_") and first.call_id != second.call_id and first.id != second.id
    assert [tool.type == "function" and tool.name for tool in response.tools] == ["weather", "time"]
    assert (response.tool_choice, response.parallel_tool_calls) == ("auto", True)
    assert response.text is not None and response.text.format is not None and response.text.format.type == "text"


async def test_a_stream_of_responses_tells_calls_item_by_item() -> None:
    async with openai_of(writes(f"{OSLO}{BERGEN}")) as client:
        async with client.responses.stream(**RESPONSES) as stream:
            events = [event async for event in stream]
        response = await stream.get_final_response()
    names = [event.type.removeprefix("response.") for event in events]
    call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert names == ["created", "in_progress", *call, *call, "completed"]
    told = [item for item in response.output if item.type == "function_call"]
    assert [item.arguments for item in told] == ['{"city": "Oslo"}', '{"city":  "Bergen"}']
    assert len({item.id for item in told}) == 2


@pytest.mark.parametrize("strategy", ["best_of_n", "beam_search", "budget_forcing", "dvts", "self_consistency"])
async def test_strategies_that_keep_the_prompt_can_call_tools(strategy: str) -> None:
    async with openai_of(writes(OSLO), TableVerifier(lambda text: 0.5)) as client:
        reply = await client.chat.completions.create(**{**CHAT, "model": f"tiny@{strategy}"})
    assert reply.choices[0].message.tool_calls, reply


async def test_thinking_is_told_before_calls_and_is_not_searched_for_them() -> None:
    thinking = f"<think>{BERGEN}</think>\n\n"
    async with openai_of(writes(f"{thinking}Hm.{OSLO}")) as client:
        reply = await client.chat.completions.create(**CHAT)
        chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
        response = await client.responses.create(**RESPONSES)
    message = reply.choices[0].message
    assert (message.content, (message.model_extra or {})["reasoning"]) == ("Hm.", thinking)
    assert len(message.tool_calls or ()) == 1
    told = [(chunk.choices[0].delta.model_extra or {}).get("reasoning", "") for chunk in chunks]
    assert "".join(told) == thinking
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]


async def test_events_come_before_calls_in_both_dialects() -> None:
    extra = {"headrace": {"events": "text"}}
    async with openai_of(writes(f"Hm.{OSLO}")) as client:
        chunks = [c async for c in await client.chat.completions.create(**CHAT, stream=True, extra_body=extra)]
        async with client.responses.stream(**RESPONSES, extra_body=extra) as stream:
            response = await stream.get_final_response()
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
