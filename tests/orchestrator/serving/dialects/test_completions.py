"""Plain completions: prompts as they stand, several at once, echoed and with log-probabilities."""

import json
from typing import Any

import httpx
import pytest

from orchestrator.serving.config import Limits
from orchestrator.serving.dialects.completions import Completions
from tests.fakes import ScriptedPolicy, TextVerifier, ids
from tests.orchestrator.serving.dialects.reading import parsed, refusal
from tests.orchestrator.serving.endpoint import client_of, endpoint, num_searches

PATH = "/v1/completions"
SCRIPT = {"Q:": ["ab"], "P:": ["c"]}


def policy() -> ScriptedPolicy:
    return ScriptedPolicy(SCRIPT, context_length=100)


def asked(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": prompt, **fields}


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    lines = response.text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize(
    ("prompt", "raw"),
    [
        ("Q:", ["Q:"]),
        (["Q:", "P:"], ["Q:", "P:"]),
        ([81, 58], [(81, 58)]),
        ([[81, 58], [80]], [(81, 58), (80,)]),
    ],
)
def test_a_prompt_is_a_text_or_tokens_or_several(prompt: Any, raw: list[Any]) -> None:
    order = parsed(Completions(), json.dumps(asked(prompt)).encode())
    assert [problem.raw for problem in order.problems] == raw
    assert order.problems[0].id == "request" and len({problem.id for problem in order.problems}) == len(raw)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "got nothing"),
        ({"prompt": []}, "prompt", "got nothing"),
        ({"prompt": ["a", ""]}, "prompt", "got nothing"),
        ({"prompt": ["a"] * 4}, "prompt", "at most 3 in a request, got 4"),
        ({"prompt": {"a": 1}}, "prompt", ""),
        ({"max_tokens": 0}, "max_tokens", "only with echo=true"),
        ({"logprobs": 21}, "logprobs", "at most 20"),
        ({"logprobs": True}, "logprobs", "integer"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 4}, "best_of", "headrace.n"),
        ({"messages": []}, "messages", "unknown parameter"),
    ],
)
def test_what_cannot_be_honoured_is_400_and_named(fields: dict[str, Any], param: str, words: str) -> None:
    error = refusal(Completions(), {**asked("Q:"), **fields})
    assert error.status == 400 and error.param is not None and error.param.startswith(param)
    assert words in error.message


async def test_each_prompt_has_its_completion_in_order() -> None:
    writer = policy()
    async with client_of(endpoint(writer)) as http:
        answer = (await http.post(PATH, json=asked(["Q:", "P:"]))).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "ab"), (1, "c")]
    assert (answer["object"], answer["usage"]["prompt_tokens"]) == ("text_completion", 4)
    sampled = sum(report["ledger"]["generated_tokens"] for report in answer["headrace"])
    assert answer["usage"]["completion_tokens"] == sampled == 5
    assert {request.prefix_ids for request in writer.requests} == {ids("Q:"), ids("P:")}


async def test_a_stream_brings_each_completion_as_it_is_written_then_the_usage() -> None:
    async with client_of(endpoint(policy())) as http:
        body = asked(["Q:", "P:"], stream=True, stream_options={"include_usage": True})
        *found, usage = chunks(await http.post(PATH, json=body))
    texts = {0: "", 1: ""}
    for chunk in found:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "ab", 1: "c"}
    ends = [chunk for chunk in found if chunk["choices"][0]["finish_reason"]]
    assert [chunk["headrace"]["strategy"] for chunk in ends] == ["greedy"] * 2
    assert all(chunk["usage"] is None for chunk in found)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 5)


@pytest.mark.parametrize("prompt", ["Q:", list(ids("Q:"))], ids=["text", "tokens"])
async def test_an_echoed_prompt_comes_before_the_completion_with_its_log_probabilities(prompt: Any) -> None:
    async with client_of(endpoint(policy())) as http:
        plain = (await http.post(PATH, json=asked(prompt, echo=True))).json()["choices"][0]
        told = (await http.post(PATH, json=asked(prompt, echo=True, logprobs=1, max_tokens=1))).json()["choices"][0]
        scored = (await http.post(PATH, json=asked(prompt, echo=True, logprobs=1, max_tokens=0))).json()["choices"][0]
    assert (plain["text"], plain["logprobs"]) == ("Q:ab", None)
    assert (told["text"], told["finish_reason"]) == ("Q:a", "length")
    logprobs = told["logprobs"]
    assert (logprobs["tokens"], logprobs["text_offset"]) == (["Q", ":", "a"], [0, 1, 2])
    assert logprobs["token_logprobs"] == [None, -0.058, -0.097]
    assert logprobs["top_logprobs"] == [None, {":": -0.058}, {"a": -0.097}]
    assert (scored["text"], scored["logprobs"]["tokens"]) == ("Q:", ["Q", ":"])


async def test_the_token_that_ends_a_completion_is_told_and_no_part_of_a_stop_string() -> None:
    async with client_of(endpoint(policy())) as http:
        whole = (await http.post(PATH, json=asked("Q:", logprobs=0))).json()["choices"][0]
        stopped = (await http.post(PATH, json=asked("Q:", logprobs=0, stop="b"))).json()["choices"][0]
    assert (whole["text"], whole["logprobs"]["tokens"]) == ("ab", ["a", "b", "<eos>"])
    assert (stopped["text"], stopped["logprobs"]["tokens"]) == ("a", ["a"])


async def test_a_prompt_that_fails_fails_the_request_and_ends_the_others() -> None:
    app = endpoint(policy())
    async with client_of(app) as http:
        answer = await http.post(PATH, json=asked(["Q:", "Q" * 100]))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
        assert num_searches(app) == 0


async def test_prompts_that_find_no_room_together_are_429_and_none_begins() -> None:
    writer = policy()
    app = endpoint(writer, limits=Limits(max_concurrent=2))
    async with client_of(app) as http:
        assert (await http.post(PATH, json=asked(["Q:"] * 2))).status_code == 200
        assert (await http.post(PATH, json=asked(["Q:"] * 3))).status_code == 400
    assert len(writer.requests) == 2


async def test_a_verifier_that_reads_text_is_given_no_prompt_of_tokens() -> None:
    reader = TextVerifier(lambda text: 0.5, scores_steps=True)
    async with client_of(endpoint(policy(), reader)) as http:
        refused = await http.post(PATH, json=asked([81, 58]))
        taken = await http.post(PATH, json=asked("Q:"))
    assert (refused.status_code, taken.status_code) == (400, 200)
    assert reader.asked[0].problem.text == "Q:"
