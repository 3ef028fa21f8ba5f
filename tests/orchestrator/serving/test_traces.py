"""Traces of past requests: what they hold, who may open them, and how many are kept."""

import asyncio
from typing import Any

import pytest

from orchestrator.serving.config import TraceLimits
from orchestrator.serving.keys import new_key
from tests.orchestrator.serving.endpoint import Connection, chat, client_of, endpoint, num_searches
from tests.orchestrator.serving.test_app import PATH, policy, verifier
from tests.waiting import until

TRACES = "/v1/headrace/traces/"


def ask(name: str, **fields: Any) -> dict[str, Any]:
    return {"json": chat(**fields), "headers": {"x-request-id": name}}


async def test_a_trace_holds_what_was_asked_and_everything_that_happened() -> None:
    async with client_of(endpoint(policy(), verifier())) as http:
        answer = (await http.post(PATH, **ask("one", seed=5))).json()
        trace = (await http.get(TRACES + "one")).json()
    [search] = trace["searches"]
    assert (trace["version"], trace["id"], trace["model"]) == (1, "one", "tiny")
    assert (search["question"], search["strategy"], search["seed"], search["error"]) == ("Q:", "best_of_n", 5, None)
    assert search["params"]["n"] == 2
    kinds = [event["type"] for event in search["events"]]
    assert {"fork", "step", "score", "budget", "answer"} <= set(kinds) and kinds[-1] == "answer"
    assert search["events"][-1]["answer"] == answer["headrace"]["answer"] == "2"
    texts = [event["text"] for event in search["events"] if event["type"] == "step" and event["path"] == [1]]
    assert "".join(dict.fromkeys(texts)) == "bb\n\nAnswer: 2"


async def test_each_prompt_of_a_request_is_a_search_of_its_trace() -> None:
    async with client_of(endpoint(policy())) as http:
        body = {"model": "tiny", "prompt": ["Q:", "1 Q:"]}
        await http.post("/v1/completions", json=body, headers={"x-request-id": "two"})
        trace = (await http.get(TRACES + "two")).json()
    assert [search["question"] for search in trace["searches"]] == ["Q:", "1 Q:"]


async def test_a_request_that_its_client_left_or_that_failed_has_a_trace_that_says_so() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer)
    async with client_of(app) as http:
        left = Connection(app, chat())
        await until(lambda: num_searches(app) == 1)
        left.leave()
        await until(lambda: num_searches(app) == 0 and len(app.state.service.traces) == 1)
        [kept] = app.state.service.traces._kept.values()
        writer.gate.set()
        writer.fails_after = 0
        failed = await http.post(PATH, **ask("failed"))
        trace = (await http.get(TRACES + "failed")).json()
    assert kept.recording.trace()["searches"][0]["error"].startswith("stopped")
    assert failed.status_code >= 500 and trace["searches"][0]["error"] == failed.json()["error"]["message"]


async def test_an_unknown_id_is_404_and_no_route_lists_the_ids() -> None:
    async with client_of(endpoint(policy())) as http:
        await http.post(PATH, **ask("one"))
        missing, listing = await http.get(TRACES + "other"), await http.get(TRACES)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "trace_not_found")
    assert listing.status_code == 404


async def test_the_oldest_traces_go_when_there_are_too_many_or_they_are_too_large() -> None:
    app = endpoint(policy(), traces=TraceLimits(keep=2))
    async with client_of(app) as http:
        for name in ("a", "b", "c"):
            await http.post(PATH, **ask(name))
        found = {name: await http.get(TRACES + name) for name in ("a", "b", "c")}
    assert {name: answer.status_code for name, answer in found.items()} == {"a": 404, "b": 200, "c": 200}
    size = app.state.service.traces.num_bytes // 2
    async with client_of(endpoint(policy(), traces=TraceLimits(max_bytes=int(1.5 * size)))) as http:
        for name in ("a", "b"):
            await http.post(PATH, **ask(name))
        statuses = [(await http.get(TRACES + name)).status_code for name in ("a", "b")]
    assert statuses == [404, 200]
    app = endpoint(policy(), traces=TraceLimits(max_bytes=size // 3))
    async with client_of(app) as http:
        assert (await http.post(PATH, **ask("a"))).status_code == 200
    assert len(app.state.service.traces) == 0, "one that is too large is given up"


async def test_the_newest_trace_of_an_id_counts() -> None:
    app = endpoint(policy())
    async with client_of(app) as http:
        for seed in (1, 2):
            await http.post(PATH, **ask("same", seed=seed))
        trace = (await http.get(TRACES + "same")).json()
    assert trace["searches"][0]["seed"] == 2 and len(app.state.service.traces) == 1


async def test_a_server_that_keeps_none_says_which_setting_it_is() -> None:
    app = endpoint(policy(), traces=TraceLimits(keep=0))
    async with client_of(app) as http:
        await http.post(PATH, **ask("one"))
        missing = await http.get(TRACES + "one")
    assert missing.status_code == 404 and "traces.keep" in missing.json()["error"]["message"]


async def test_a_trace_opens_for_the_key_alone_that_asked() -> None:
    made = [new_key("ann"), new_key("bob")]
    app = endpoint(policy(), variable=";".join(record.line for _, record in made))
    ann, bob = ({"authorization": f"Bearer {key}"} for key, _ in made)
    async with client_of(app) as http:
        await http.post(PATH, json=chat(), headers={"x-request-id": "one", **ann})
        statuses = [(await http.get(TRACES + "one", headers=headers)).status_code for headers in (ann, bob, {})]
    assert statuses == [200, 404, 401]


@pytest.mark.parametrize("wrong", [{"keep": -1}, {"max_bytes": 0}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"traces: {next(iter(wrong))}"):
        TraceLimits(**wrong)
