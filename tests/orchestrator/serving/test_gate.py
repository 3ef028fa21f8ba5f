"""Keys, turns, origins and logs, as clients of the app meet them."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Generation
from orchestrator.serving.config import Effort, Limits
from orchestrator.serving.dialects import DIALECTS
from orchestrator.serving.key_classes import KeyClass, KeysConfig
from orchestrator.serving.keys import new_key
from tests.fakes import ScriptedPolicy, ScriptedStream
from tests.orchestrator.serving.endpoint import Connection, chat, client_of, endpoint, num_searches
from tests.waiting import until

PATH = "/v1/chat/completions"
KEY, RECORD = new_key("alice")
TRIAL_KEY, TRIAL = new_key("bob", "trial")
VARIABLE = f"{RECORD.line};{TRIAL.line}"


def policy() -> ScriptedPolicy:
    return ScriptedPolicy({"Q:": ["a\n\nAnswer: 1", "bb\n\nAnswer: 2"]}, context_length=2000)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def keyed(writer: ScriptedPolicy, trial: KeyClass | None = None, **more: Any) -> Any:
    classes = {"trial": trial or KeyClass()}
    return endpoint(writer, keys=KeysConfig(classes=classes), variable=VARIABLE, **more)


@pytest.mark.parametrize("path", [*(dialect.path for dialect in DIALECTS), "/v1/models", "/v1/models/tiny", "/nothing"])
@pytest.mark.parametrize("headers", [{}, bearer("hr-wrong"), bearer(""), {"authorization": f"Basic {KEY}"}])
async def test_without_a_key_every_route_is_401_and_nothing_is_read(path: str, headers: dict[str, str]) -> None:
    async with client_of(keyed(policy())) as http:
        for method in ("GET", "POST"):
            refused = await http.request(method, path, headers=headers, content=b"{")
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            error = refused.json()["error"]
            assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
            assert "wrong" not in error["message"]


async def test_a_key_opens_the_endpoint_and_probes_need_none() -> None:
    async with client_of(keyed(policy())) as http:
        assert (await http.post(PATH, json=chat(), headers=bearer(KEY))).status_code == 200
        assert (await http.get("/v1/models", headers={"authorization": f"bearer  {KEY} "})).status_code == 200
        for path in ("/health", "/healthz", "/openapi.json", "/docs"):
            assert (await http.get(path)).status_code == 200, path


async def test_keys_may_be_switched_off_by_name_though_there_are_some() -> None:
    async with client_of(endpoint(policy(), keys=KeysConfig(required=False), variable=RECORD.line)) as http:
        assert (await http.post(PATH, json=chat())).status_code == 200


@pytest.mark.parametrize(
    ("trial", "fields", "param"),
    [
        (KeyClass(strategies=["greedy"]), {"model": "tiny@self_consistency"}, "model"),
        (KeyClass(max_n=3), {"headrace": {"strategy": "self_consistency", "n": 4}}, "headrace.n"),
        (KeyClass(efforts=[]), {"reasoning_effort": "low"}, "reasoning_effort"),
    ],
)
async def test_a_class_of_keys_has_its_own_costs(trial: KeyClass, fields: dict[str, Any], param: str) -> None:
    async with client_of(keyed(policy(), trial, efforts={"low": Effort()})) as http:
        refused = await http.post(PATH, json=chat(**fields), headers=bearer(TRIAL_KEY))
        taken = await http.post(PATH, json=chat(**fields), headers=bearer(KEY))
        fits = await http.post(PATH, json=chat(), headers=bearer(TRIAL_KEY))
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, param)
    assert refused.json()["error"]["code"] == "not_permitted"
    assert (taken.status_code, fits.status_code) == (200, 200), taken.text


async def test_a_class_of_keys_has_its_own_budget() -> None:
    async with client_of(keyed(policy(), KeyClass(budget=Budget(policy_tokens=3)))) as http:
        cut = (await http.post(PATH, json=chat(), headers=bearer(TRIAL_KEY))).json()
        whole = (await http.post(PATH, json=chat(), headers=bearer(KEY))).json()
    assert cut["usage"]["completion_tokens"] == 3 < whole["usage"]["completion_tokens"]


async def test_a_key_that_has_spent_its_minute_is_429_and_others_go_on() -> None:
    async with client_of(keyed(policy(), KeyClass(tokens_per_minute=5))) as http:
        first = await http.post(PATH, json=chat(), headers=bearer(TRIAL_KEY))
        refused = await http.post(PATH, json=chat(), headers=bearer(TRIAL_KEY))
        other = await http.post(PATH, json=chat(), headers=bearer(KEY))
    assert (first.status_code, refused.status_code, other.status_code) == (200, 429, 200)
    assert int(refused.headers["retry-after"]) > 60
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_key_has_so_many_in_flight_and_each_that_ends_makes_room() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    async with client_of(app := keyed(writer, KeyClass(max_in_flight=1))) as http:
        held = asyncio.create_task(http.post(PATH, json=chat(), headers=bearer(TRIAL_KEY)))
        await until(lambda: num_searches(app) == 1)
        refused = await http.post(PATH, json=chat(), headers=bearer(TRIAL_KEY))
        writer.gate.set()
        assert (await held).status_code == 200
        assert (await http.post(PATH, json=chat(), headers=bearer(TRIAL_KEY))).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


# turns


async def test_more_requests_than_may_run_wait_and_keys_take_turns() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    done: list[str] = []
    app = keyed(writer, limits=Limits(max_concurrent=1, max_queued=3))
    async with client_of(app) as http:

        async def ask(name: str, key: str) -> None:
            assert (await http.post(PATH, json=chat(), headers=bearer(key))).status_code == 200
            done.append(name)

        tasks = []
        for number, (name, key) in enumerate((("a1", KEY), ("a2", KEY), ("a3", KEY), ("b1", TRIAL_KEY))):
            tasks.append(asyncio.create_task(ask(name, key)))
            await until(lambda: num_searches(app) == 1 and app.state.service.num_queued == number)  # noqa: B023
        assert (await http.get("/healthz")).json()["queued"] == 3
        refused = await http.post(PATH, json=chat(), headers=bearer(KEY))
        writer.gate.set()
        await asyncio.gather(*tasks)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert done == ["a1", "a2", "b1", "a3"]


async def test_a_client_that_leaves_the_queue_leaves_its_place_too() -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer, limits=Limits(max_concurrent=1, max_queued=1))
    async with client_of(app) as http:
        held = asyncio.create_task(http.post(PATH, json=chat()))
        await until(lambda: num_searches(app) == 1)
        for leave in (lambda c: c.leave(), lambda c: c.task.cancel()):
            waiting = Connection(app, chat())
            await until(lambda: app.state.service.num_queued == 1)
            leave(waiting)
            await asyncio.wait([waiting.task])
            assert app.state.service.num_queued == 0
        writer.gate.set()
        assert (await held).status_code == 200
        await until(lambda: num_searches(app) == 0)


@pytest.mark.parametrize(
    ("limits", "fields"),
    [({"queue_timeout_s": 0.05}, {}), ({}, {"headrace": {"deadline_s": 0.05}})],
)
async def test_a_request_that_waited_too_long_is_429(limits: dict[str, Any], fields: dict[str, Any]) -> None:
    writer = policy()
    writer.gate = asyncio.Event()
    app = endpoint(writer, limits=Limits(max_concurrent=1, **limits))
    async with client_of(app) as http:
        held = asyncio.create_task(http.post(PATH, json=chat()))
        await until(lambda: num_searches(app) == 1)
        refused = await http.post(PATH, json=chat(**fields))
        writer.gate.set()
        assert (await held).status_code == 200
    assert (refused.status_code, refused.json()["error"]["message"]) == (429, "no search could begin within 0.05 s")


async def test_a_prompt_over_the_servers_own_cap_is_400() -> None:
    async with client_of(endpoint(policy(), limits=Limits(max_prompt_tokens=1))) as http:
        refused = await http.post(PATH, json=chat())
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "at most 1" in refused.json()["error"]["message"]


# origins


async def test_pages_of_other_origins_are_told_nothing_unless_they_are_listed() -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization, content-type"
    async with client_of(endpoint(policy())) as http:
        silent = await http.options(PATH, headers=asked)
    async with client_of(keyed(policy(), cors=["https://a.example"])) as http:
        told = await http.options(PATH, headers=asked)
        other = await http.options(PATH, headers={**asked, "origin": "https://b.example"})
        refused = await http.post(PATH, json=chat(), headers={"origin": "https://a.example"})
    allow = "access-control-allow-origin"
    assert allow not in silent.headers and silent.status_code == 405
    assert (told.status_code, told.headers[allow]) == (200, "https://a.example")
    assert "authorization" in told.headers["access-control-allow-headers"]
    assert other.status_code == 400 and allow not in other.headers
    assert (refused.status_code, refused.headers[allow]) == (401, "https://a.example")


# logs


class Faulty(ScriptedPolicy):
    """Fails when it should write."""

    def generate(self, requests: Sequence[Generation]) -> ScriptedStream:
        raise RuntimeError("a fault")


@pytest.mark.parametrize("asked", [False, True])
async def test_no_prompt_and_no_key_is_in_any_log_unless_asked_for(
    caplog: pytest.LogCaptureFixture, asked: bool
) -> None:
    secret = "zebra-in-the-prompt"
    script = {f"{secret} Q:": ["a\n\nAnswer: 1"]}
    caplog.set_level(logging.DEBUG)
    for writer in (ScriptedPolicy(script, context_length=2000), Faulty(script, context_length=2000)):
        app = keyed(writer, limits=Limits(max_prompt_tokens=100), log_requests=asked)
        async with client_of(app) as http:
            for content in (f"{secret} Q:", secret * 20):
                body = chat(messages=[{"role": "user", "content": content}])
                for fields in ({}, {"stream": True}, {"temperature": secret}, {secret: 1}):
                    await http.post(PATH, json={**body, **fields}, headers=bearer(KEY))
            await http.post(PATH, content=f'{{"{secret}'.encode(), headers=bearer(KEY))
            await http.post(PATH, json=chat(), headers=bearer(f"{KEY}x"))
    records = [logging.Formatter().format(record) for record in caplog.records]
    assert any("failed: strategy greedy" in record for record in records)
    assert any(secret in record for record in records) is asked
    assert not any(KEY in record for record in records)
    if asked:
        assert json.dumps(chat()["messages"]) not in caplog.text  # that request had a wrong key
