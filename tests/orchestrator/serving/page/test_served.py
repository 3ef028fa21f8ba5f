"""The page on a real endpoint over fakes, in a real browser: asking, watching, stopping, traces, keys, its origin."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from orchestrator.serving.http_server import HttpServer
from orchestrator.serving.keys import new_key
from tests.fakes import ScriptedPolicy, TableVerifier
from tests.orchestrator.serving.endpoint import endpoint, num_searches
from tests.orchestrator.serving.page.browser import Tab, tab
from tests.orchestrator.serving.sockets import HOST, free_port
from tests.waiting import until

SCRIPT = {"Q:": ["a\n\nAnswer: 1", "bb\n\nAnswer: 2"]}


def prefers_2(text: str) -> float:
    return 0.9 if "2" in text else 0.2


@asynccontextmanager
async def served(writer: ScriptedPolicy | None = None, **more: Any) -> AsyncIterator[tuple[FastAPI, str]]:
    """The endpoint on a port of its own, and its address."""
    app = endpoint(writer or ScriptedPolicy(SCRIPT), TableVerifier(prefers_2), **more)
    port = free_port()
    server = HttpServer(app, host=HOST, port=port, head_timeout_s=20.0)
    server.start()
    try:
        await app.state.service.opened()
        yield app, f"http://{HOST}:{port}"
    finally:
        await server.stop()


async def ask(page: Tab, question: str = "Q:", **fields: str) -> None:
    await page.page.wait_for_selector("#ask:enabled")
    await page.page.fill("#question", question)
    for name, value in fields.items():
        if name == "strategy":
            await page.page.select_option("#strategy", value)
        elif name.startswith("budget"):
            await page.page.evaluate("document.querySelector('#form details').open = true")
            await page.page.fill(f"#{name.replace('__', '-')}", value)
        else:
            await page.page.fill(f"#param-{name}", value)
    await page.page.click("#ask")


async def test_a_question_grows_a_tree_and_ends_with_its_answer(browser: Any) -> None:
    async with served() as (_, url), tab(browser, url) as page:
        await ask(page)
        await page.page.wait_for_selector(".node.the-answer")
        assert "2" in await page.text(".answer strong") and "score 0.90" in await page.text(".answer")
        assert await page.text("#details pre.own") == "Answer: 2"
        steps = await page.page.eval_on_selector_all(".node .text", "all => all.map(one => one.textContent)")
        assert sorted(steps) == ["Answer: 1", "Answer: 2", "Q:", "a", "bb"]
        assert page.complaints == []


async def test_a_search_is_shown_while_it_goes_on(browser: Any) -> None:
    writer = ScriptedPolicy(SCRIPT)
    writer.gate = asyncio.Event()
    async with served(writer) as (_, url), tab(browser, url) as page:
        await ask(page)
        await page.page.wait_for_selector(".node.being-written")
        assert await page.count(".node.being-written") == 2, "the children are there before their first steps"
        assert await page.page.is_enabled("#stop") and await page.page.is_disabled("#ask")
        writer.gate.set()
        await page.page.wait_for_selector(".node.the-answer")
        assert await page.count(".node.being-written") == 0


async def test_stop_ends_the_search_on_the_server(browser: Any) -> None:
    writer = ScriptedPolicy(SCRIPT)
    writer.gate = asyncio.Event()
    async with served(writer) as (app, url), tab(browser, url) as page:
        await ask(page)
        await page.page.wait_for_selector(".node.being-written")
        assert num_searches(app) == 1
        await page.page.click("#stop")
        await until(lambda: num_searches(app) == 0)
        assert "Stopped" in await page.text(".answer") and await page.text("#status") == "The search was stopped"
        writer.gate.set()
        await ask(page)
        await page.page.wait_for_selector(".node.the-answer")


async def test_the_chosen_strategy_its_parameters_and_the_budget_reach_the_server(browser: Any) -> None:
    writer = ScriptedPolicy(SCRIPT)
    async with served(writer) as (_, url), tab(browser, url) as page:
        await ask(page, strategy="self_consistency", n="5", budget__candidates="3")
        await page.page.wait_for_selector(".node.the-answer")
        assert len(writer.requests) == 3
        assert "cut short by its budget" in await page.text(".answer")
        await page.page.wait_for_selector(".votes li")
        assert "2 votes" in await page.text(".votes")


async def test_a_refusal_is_shown_in_the_servers_words(browser: Any) -> None:
    async with served() as (_, url), tab(browser, url) as page:
        await page.page.wait_for_selector("#ask:enabled")
        await page.page.evaluate("document.getElementById('form').noValidate = true")
        await ask(page, n="65")
        await page.page.wait_for_selector("#summary .error")
        assert "must be <= limits.max_n=64" in await page.text("#summary .error")


async def test_a_trace_opens_by_its_id_and_by_its_address(browser: Any) -> None:
    async with served() as (_, url), tab(browser, url) as page:
        await ask(page)
        await page.page.wait_for_selector(".node.the-answer")
        await page.page.wait_for_selector("#kept-ids option", state="attached")
        request_id = await page.page.get_attribute("#kept-ids option", "value")
        await page.page.reload()
        await page.page.wait_for_selector("#ask:enabled")
        await page.page.fill("#trace-id", request_id)
        await page.page.click("#open button")
        await page.page.wait_for_selector(".node.the-answer")
        assert "Answer: 2" in await page.text("#details")
        await page.page.fill("#trace-id", "unknown")
        await page.page.click("#open button")
        await page.page.wait_for_selector("#summary .error")
        assert "no such trace" in await page.text("#summary .error")
        async with tab(browser, f"{url}/?trace={request_id}") as other:
            await other.page.wait_for_selector(".node.the-answer")
            assert await other.text("#request-id") == request_id


async def test_a_browser_keeps_the_ids_of_its_searches_and_no_question(browser: Any) -> None:
    async with served() as (_, url), tab(browser, url) as page:
        await ask(page, "my secret Q:")
        await page.page.wait_for_selector(".node.the-answer")
        await page.page.wait_for_selector("#kept-ids option", state="attached")
        kept = await page.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage}) + document.cookie")
        assert "req-" in kept and "secret" not in kept and "Answer" not in kept


async def test_a_server_that_keeps_no_traces_offers_none(browser: Any) -> None:
    from orchestrator.serving.config import TraceLimits

    async with served(traces=TraceLimits(keep=0)) as (_, url), tab(browser, url) as page:
        await page.page.wait_for_selector("#ask:enabled")
        assert not await page.page.is_visible("#open")


async def test_a_server_with_keys_is_asked_with_the_key_that_was_typed(browser: Any) -> None:
    key, record = new_key("ann")
    async with served(variable=record.line) as (_, url), tab(browser, url) as page:
        await page.page.wait_for_selector("#key:visible")
        assert await page.page.is_disabled("#ask")
        await page.page.fill("#key", key)
        await page.page.press("#key", "Tab")
        await ask(page)
        await page.page.wait_for_selector(".node.the-answer")
        assert key not in await page.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")


async def test_nothing_is_asked_of_another_origin_and_nothing_could_be(browser: Any) -> None:
    async with served() as (_, url), served() as (_, other), tab(browser, url) as page:
        await ask(page)
        await page.page.wait_for_selector(".node.the-answer")
        assert {request.split("?")[0].startswith((f"{url}/", "data:,")) for request in page.requests} == {True}
        tries = f"""async () => [
            await fetch('{other}/health').then(() => 'reached', () => 'refused'),
            await new Promise(done => {{ const i = new Image(); i.onload = () => done('reached');
                                         i.onerror = () => done('refused');
                                         i.src = '{other}/page/style.css'; }}),
            await import('{other}/page/words.js').then(() => 'reached', () => 'refused'),
        ]"""
        assert await page.page.evaluate(tries) == ["refused"] * 3
        assert sum("Content Security Policy" in complaint for complaint in page.complaints) >= 3


async def test_those_who_listen_hear_the_begin_and_the_end_and_little_between(browser: Any) -> None:
    script = {"Q:": ["step\n\n" * 30 + f"Answer: {number}" for number in (1, 2)]}
    async with served(ScriptedPolicy(script)) as (_, url), tab(browser, url) as page:
        await page.page.evaluate(
            """() => { window.heard = [];
                 new MutationObserver(() => window.heard.push(document.getElementById('status').textContent))
                   .observe(document.getElementById('status'), { childList: true }); }"""
        )
        await ask(page, n="16")
        await page.page.wait_for_selector(".node.the-answer")
        heard = await page.page.evaluate("window.heard")
        assert heard[0] == "The search has begun" and heard[-1] == "The answer is 2"
        assert len(heard) <= 4, heard


async def test_modules_that_know_no_page_are_right_alone(browser: Any) -> None:
    """A tree of events in any order, where its nodes stand, and events that arrive in pieces of any size."""
    async with served() as (_, url), tab(browser, url) as page:
        found = await page.page.evaluate(
            """async () => {
              const { SearchTree } = await import("/page/tree.js");
              const { layOut } = await import("/page/layout.js");
              const one = new SearchTree("?");
              const fields = { type: "step", text: "s", tokens: 1, finished: false, at: 1 };
              const step = (path, index) => one.apply({ ...fields, path, index });
              one.apply({ type: "score", path: [9], index: 0, score: 1 });
              one.apply({ type: "from a newer server" });
              one.apply({ type: "fork", path: [], children: [[0], [1]] });
              const drafts = one.root.children.map((node) => node.draft);
              step([1], 0); step([0], 0); step([0], 1); step([0, 1], 2); step([0, 0], 2);
              one.apply({ type: "prune", path: [0, 0] });
              const { places, rows } = layOut(one.root, new Set());
              const at = Object.fromEntries([...places].map(([key, { row, column }]) => [key, [column, row]]));
              const alive = ["0:0", "0.0:2", "0.1:2"].map((key) => one.nodes.get(key).alive);
              return { drafts, at, rows, alive, counts: one.counts };
            }"""
        )
        assert found["drafts"] == [True, True]
        places = {"root": [0, 0], "0:0": [1, 0], "1:0": [1, 1], "0:1": [2, 0], "0.0:2": [3, 0], "0.1:2": [3, 1]}
        assert (found["at"], found["rows"], found["alive"]) == (places, 2, [True, False, True])
        assert found["counts"] == {"steps": 5, "scored": 0, "pruned": 1, "finished": 0}
        said = 'data: {"a": "é\\n"}\n\n: searching\n\ndata: [DONE]\n\n'.encode()
        for seed in range(5):
            cuts = sorted(random.Random(seed).sample(range(len(said)), 6))
            pieces = [list(said[a:b]) for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
            read = await page.page.evaluate(
                """async (pieces) => {
                  const { sentEvents } = await import("/page/api.js");
                  const stream = new ReadableStream({ start(to) {
                    for (const piece of pieces) to.enqueue(new Uint8Array(piece)); to.close(); } });
                  const found = [];
                  for await (const event of sentEvents(stream)) found.push(event);
                  return found;
                }""",
                pieces,
            )
            assert read == ['{"a": "é\\n"}', "[DONE]"]
