"""`headrace serve`: the whole endpoint on Ray Serve with the tiny pair, as the real OpenAI client meets it."""

import asyncio
import io
import json
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema
from rich.console import Console

from experiments.config import PROJECT_ROOT
from experiments.running.serve import base_url, plan_serving, serve, serve_file
from orchestrator.core.errors import UserError
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.deployment import running_endpoint
from orchestrator.serving.http_server import listen
from orchestrator.serving.keys import new_key
from strategies import STRATEGIES
from tests.waiting import until

CONFIG = PROJECT_ROOT / "configs" / "serve.yaml"
TIMEOUT_S = 120.0
pytestmark = pytest.mark.timeout(900)  # the first test on the endpoint pays for its start
PROMPT: Any = [{"role": "user", "content": "Box with 58 pens\nJon sells 16\nZoe buys 6\nHow many now?"}]
LONG: Any = {"strategy": "best_of_n", "n": 64}  # with a high temperature: seconds of work


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# before anything is started


def plan(*overrides: str) -> ServeConfig:
    return plan_serving(CONFIG, [f"port={free_port()}", *overrides])


def test_the_shipped_file_is_loopback_and_its_paths_hold_in_every_process() -> None:
    config = plan()
    assert config.host == "127.0.0.1"
    assert config.verifier is not None
    assert Path(config.policy.model).is_absolute() and Path(config.verifier.model).is_absolute()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prot=8000", "prot"),
        ("port=eight", "port"),
        ("limits.max_n=0", "limits: max_n must be >= 1, got 0"),
        ("limits.max_n=8", "must be <= limits.max_n=8, got 16"),
        ("default_strategy=best_of", "did you mean best_of_n?"),
        ("strategies.beam_search.beam_width=32", "beam_width must be between 1 and n=16, got 32"),
        ("efforts.high={strategy: best_of}", "efforts.high: headrace.strategy: got 'best_of'"),
        ("efforts.high={strategy: best_of_n, params: {n: 65}}", "efforts.high: headrace.n: must be <= limits.max_n=64"),
        ("policy.model=no/such/folder", "no/such/folder"),
        ("verifier.model=no/such/folder", "no/such/folder"),
        ("verifier=null", "best_of_n needs a verifier"),
        ("host=0.0.0.0", "headrace key new NAME"),
        ("application.replicas=2", "several replicas share the engines of a named pool: set pool, got none"),
        ("application.replicas=0", "application: replicas must be >= 1, got 0"),
        ("application.max_replicas=0", "max_replicas must be >= replicas=1, got 0"),
        ("application.route_prefix=math", "route_prefix: wanted /, or a path such as /math, got 'math'"),
        ("keys.required=true", "keys.required is true, and there are no API keys"),
        ("keys.file=no/such/file", "keys.file: can't read"),
        ("keys.classes={a: {strategies: [best_of]}}", "keys.classes.a.strategies: got 'best_of'"),
        ("keys.classes={a: {efforts: [high]}}", "keys.classes.a.efforts: got 'high', wanted of none"),
    ],
)
def test_a_mistake_is_found_before_anything_is_started(override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(override)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_foreign_address_is_found_before_anything_is_started() -> None:
    with pytest.raises(UserError, match=r"can't listen on 192.0.2.1"):
        plan("host=192.0.2.1", "keys.required=false")


def test_a_file_for_serve_deploy_has_the_routes_the_proxies_and_the_hashes_of_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_API_KEYS", line := new_key("team")[1].line)
    made = yaml.safe_load(serve_file(CONFIG, ["application.route_prefix=/math", "port=9000", "host=0.0.0.0"]))
    deployed = ServeDeploySchema.model_validate(made)
    [application] = deployed.applications
    assert (deployed.http_options.host, deployed.http_options.port) == ("0.0.0.0", 9000)
    assert deployed.http_options.request_timeout_s > 120 + 30  # the endpoint's own limits come first
    assert (application.name, application.route_prefix) == ("headrace", "/math")
    assert application.args["config"] == str(CONFIG) and "port=9000" in application.args["overrides"]
    assert application.runtime_env["env_vars"] == {"HEADRACE_API_KEYS": line}


def test_keys_in_the_environment_open_the_endpoint_to_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_API_KEYS", new_key("team")[1].line)
    assert plan("host=0.0.0.0").host == "0.0.0.0"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_in_order(monkeypatch: pytest.MonkeyPatch, signum: signal.Signals) -> None:
    events: list[str] = []

    @contextmanager
    def recorded(*_: Any) -> Iterator[None]:
        try:
            yield
        finally:
            events.append("closed")

    class Terminal(Console):
        def print(self, *objects: Any, **_: Any) -> None:
            events.append(str(objects[0]))
            if "is served at" in events[-1]:
                signal.raise_signal(signum)

    monkeypatch.setattr("experiments.running.serve.connected", recorded)
    monkeypatch.setattr("experiments.running.serve.serve_runs", lambda: False)
    monkeypatch.setattr("experiments.running.serve.running_endpoint", recorded)
    port = free_port()
    serve(CONFIG, [f"port={port}"], Terminal(file=io.StringIO()))
    welcome, *rest = events
    assert rest == ["stopping: requests in progress have 20 s (Ctrl-C ends them now)", "closed", "closed", "stopped"]
    curl = shlex.split(welcome.split("try: ")[1])
    assert curl[:2] == ["curl", f"http://127.0.0.1:{port}/v1/chat/completions"]
    assert json.loads(curl[-1])["messages"][0]["content"].startswith("Box with 58 pens\nJon")


# the running endpoint


@pytest.fixture(scope="module")
async def config(local_ray: Any) -> AsyncIterator[ServeConfig]:
    """A running endpoint; afterwards nothing of it is left."""
    planned = plan(
        "limits.max_concurrent=2",
        "limits.max_queued=0",
        "limits.drain_s=0.5",
        "policy.kv_cache_gib=0.25",
        "policy.max_num_seqs=64",
    )
    endpoint = running_endpoint(planned, STRATEGIES)
    await asyncio.to_thread(endpoint.__enter__)
    try:
        yield planned
    finally:
        last = asyncio.create_task(last_answer(planned))
        await health_when(planned, lambda found: found["searches"] == 1 and found["policy"]["running"] > 0)
        await asyncio.to_thread(endpoint.__exit__, None, None, None)
    assert await last == (200, "deadline")  # requests in progress are answered when the server stops
    await until(lambda: is_free(planned), pause_s=0.05, within_s=TIMEOUT_S)


async def last_answer(config: ServeConfig) -> tuple[int, str]:
    """Status and end of a search that takes longer than a server that stops has."""
    body = {"model": "tinymath", "messages": PROMPT, "temperature": 2, "max_tokens": 400, "headrace": LONG}
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        response = await http.post(f"{base_url(config)}/v1/chat/completions", json=body)
    return response.status_code, response.json()["headrace"]["end_reason"]


@pytest.fixture(scope="module")
async def client(config: ServeConfig) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{base_url(config)}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as made:
        yield made


def is_free(config: ServeConfig) -> bool:
    with suppress(UserError):
        listen(config.host, config.port).close()
        return True
    return False


async def health(config: ServeConfig) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        response = await http.get(f"{base_url(config)}/healthz")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def health_when(config: ServeConfig, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first health that meets the condition."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition(found := await health(config)):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    return found


def idle(found: dict[str, Any]) -> bool:
    return bool(found["searches"] == 0 and found["policy"]["running"] == 0)


async def test_healthz_is_ready(config: ServeConfig) -> None:
    found = await health(config)
    assert (found["status"], found["policy"]["replicas"], found["verifier"]["replicas"]) == ("ready", 1, 1)


async def test_every_listed_model_answers(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert names == ["tinymath", *(f"tinymath@{name}" for name in STRATEGIES)]
    for name in names:
        answer = await client.chat.completions.create(model=name, messages=PROMPT, seed=1)
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage is not None and answer.usage.completion_tokens > 0
        assert answer.headrace["strategy"] == (name.partition("@")[2] or "best_of_n")


async def test_usage_counts_the_tokens_of_all_candidates(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tinymath", messages=PROMPT, seed=1, extra_body={"headrace": {"n": 4, "aggregation": "min"}}
    )
    report = answer.headrace
    assert report["params"] == {"n": 4, "aggregation": "min", "selection": {"kind": "mean", "z": 1.0}}
    assert (report["num_candidates"], report["ledger"]["candidates"]) == (4, 4)
    assert report["ledger"]["verifier_tokens"] > 0
    assert 0 <= report["score"] <= 1
    usage = answer.usage
    assert usage is not None and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens == report["ledger"]["generated_tokens"] > 4
    assert "<eos>" not in (answer.choices[0].message.content or "")


async def test_a_strategy_is_named_by_the_extra_body(client: openai.AsyncOpenAI) -> None:
    beam = {"strategy": "beam_search", "n": 4, "beam_width": 2}
    answer = await client.chat.completions.create(
        model="tinymath", messages=PROMPT, max_tokens=100, extra_body={"headrace": beam}
    )
    assert answer.headrace["strategy"] == "beam_search"
    assert answer.headrace["params"]["beam_width"] == 2


async def test_a_stream_carries_the_answer_its_report_and_its_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tinymath@best_of_n", messages=PROMPT, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    *_, last, usage = chunks
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert last.choices[0].finish_reason in ("stop", "length")
    assert last.headrace["strategy"] == "best_of_n"
    assert usage.usage is not None and usage.usage.completion_tokens > 0


@pytest.mark.parametrize("strategy", ["greedy", "best_of_n", "beam_search"])
async def test_an_answer_ends_before_its_stop_string_though_it_spans_steps(
    client: openai.AsyncOpenAI, strategy: str
) -> None:
    asked: Any = {"model": f"tinymath@{strategy}", "messages": PROMPT, "seed": 1, "temperature": 0.3}
    whole = (await client.chat.completions.create(**asked)).choices[0].message.content
    assert whole is not None
    at = whole.index("\n")
    stop = whole[at - 2 : at + 3]
    [choice] = (await client.chat.completions.create(**asked, stop=[stop])).choices
    assert choice.message.content is not None and stop not in choice.message.content
    if strategy == "greedy":
        assert (choice.message.content, choice.finish_reason) == (whole[: whole.index(stop)], "stop")


async def test_choices_are_ranked_and_each_has_its_verdicts(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tinymath@best_of_n", messages=PROMPT, n=3, seed=1, extra_body={"headrace": {"n": 8}}
    )
    reports = [(choice.model_extra or {})["headrace"] for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(0 <= step["score"] <= 1 for report in reports for step in report["steps"])
    answered = [report["score"] for report in reports[1:]]
    assert answered == sorted(answered, reverse=True)


async def test_the_likeliest_tokens_are_those_that_greedy_wrote(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tinymath@greedy", messages=PROMPT, logprobs=True, top_logprobs=3
    )
    [choice] = answer.choices
    assert choice.logprobs is not None and choice.logprobs.content
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token
        assert token.logprob == token.top_logprobs[0].logprob <= 0


async def test_a_completion_is_scored_as_it_was_written_from_its_text_and_from_its_tokens(
    client: openai.AsyncOpenAI,
) -> None:
    """As lm-evaluation-harness asks for log-likelihoods."""
    model = "tinymath@greedy"
    prompt = str(PROMPT[0]["content"])
    written = await client.completions.create(model=model, prompt=prompt, max_tokens=20, logprobs=1)
    own = written.choices[0].logprobs
    assert own is not None and own.token_logprobs and own.tokens
    text = prompt + written.choices[0].text
    scored = await client.completions.create(model=model, prompt=text, max_tokens=1, echo=True, logprobs=1)
    told = scored.choices[0].logprobs
    assert told is not None and told.tokens and told.token_logprobs and told.top_logprobs
    assert scored.choices[0].text.startswith(text)
    assert told.token_logprobs[0] is None
    num_own = sum(token != "<eos>" for token in own.tokens)
    first = len(told.tokens) - 1 - num_own
    for index in range(num_own):
        assert told.tokens[first + index] == own.tokens[index]
        assert abs((told.token_logprobs[first + index] or 0) - (own.token_logprobs[index] or 0)) < 1e-3
        top = told.top_logprobs[first + index]
        assert max(top, key=lambda text: top[text]) == told.tokens[first + index]
    both = await client.completions.create(model=model, prompt=[prompt, prompt], max_tokens=5)
    assert [choice.index for choice in both.choices] == [0, 1]


async def test_the_responses_api_answers_plain_and_streamed(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "tinymath@best_of_n", "input": PROMPT, "extra_body": {"seed": 4}}
    plain = await client.responses.create(**asked)
    stream = await client.responses.create(**asked, stream=True)
    events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert plain.output_text and "".join(deltas) == plain.output_text
    assert events[-1].type in ("response.completed", "response.incomplete")


async def test_bad_requests_are_the_clients_own_exceptions(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean tinymath@best_of_n"):
        await client.chat.completions.create(model="tinymath@best_of_m", messages=PROMPT)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="tinymath", messages=PROMPT, extra_body={"headrace": {"strategy": "beam_search", "beam_width": 5}}
        )
    assert (caught.value.param, caught.value.type) == ("headrace.n", "invalid_request_error")
    assert "multiple of beam_width=5" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        long: Any = [{"role": "user", "content": "How many now?\n" * 500}]
        await client.chat.completions.create(model="tinymath", messages=long, stream=True)
    assert caught.value.code == "context_length_exceeded"


async def test_a_request_over_the_cap_is_refused_at_once_and_a_client_that_leaves_frees_its_work(
    config: ServeConfig, client: openai.AsyncOpenAI
) -> None:
    async def long(stream: bool) -> Any:
        answer = await client.chat.completions.create(
            model="tinymath",
            messages=PROMPT,
            seed=3,
            temperature=2,
            max_tokens=400,
            stream=stream,
            extra_body={"headrace": LONG},
        )
        return [chunk async for chunk in answer] if stream else answer

    whole = (await long(stream=False)).usage.completion_tokens
    before = await health_when(config, idle)
    held = [asyncio.create_task(long(stream=False)), asyncio.create_task(long(stream=True))]
    await health_when(config, lambda found: found["searches"] == 2 and found["policy"]["running"] > 0)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="tinymath", messages=PROMPT)
    assert caught.value.response.headers["retry-after"] == "1"
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    after = await health_when(config, idle)
    assert after["policy"]["sampled_tokens"] - before["policy"]["sampled_tokens"] < 2 * whole
    await client.chat.completions.create(model="tinymath@greedy", messages=PROMPT)


@pytest.mark.parametrize("seconds", [4.0, pytest.param(60.0, marks=pytest.mark.soak)])
async def test_clients_that_leave_in_parallel_break_no_strategy(
    config: ServeConfig, client: openai.AsyncOpenAI, seconds: float
) -> None:
    url = f"{base_url(config)}/v1/chat/completions"

    async def leave(http: httpx.AsyncClient, body: dict[str, Any], after_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await http.post(url, json=body)

    clock = asyncio.get_running_loop().time
    end, strategies = clock() + seconds, cycle(STRATEGIES)
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        while clock() < end:
            name = next(strategies)
            much = {"n": 64} if name == "best_of_n" else {}
            body = {"model": f"tinymath@{name}", "messages": PROMPT, "temperature": 2, "max_tokens": 400}
            bodies = [{**body, "headrace": much, "stream": stream} for stream in (False, True)]
            await asyncio.gather(*map(leave, repeat(http), bodies, (0.4, 0.55)))
    found = await health_when(config, idle)
    assert found["verifier"]["judges"]
    for name in STRATEGIES:
        answer = await client.chat.completions.create(model=f"tinymath@{name}", messages=PROMPT)
        assert answer.choices[0].message.content


async def test_prompts_are_in_no_log_of_ray_or_of_the_endpoint(client: openai.AsyncOpenAI, local_ray: Path) -> None:
    secret = "zebrasecret"
    asked: Any = {"messages": [{"role": "user", "content": f"Box with 58 pens\n{secret}\nHow many now?"}]}
    for name in ("tinymath@greedy", "tinymath@best_of_n", "tinymath@nothing"):
        with suppress(openai.NotFoundError):
            await client.chat.completions.create(model=name, **asked)
    session = Path(ray.worker.global_worker.node.get_session_dir_path())
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert any("serve" in path.as_posix() for path in logs)
    assert not [path for path in logs if secret.encode() in path.read_bytes()]


async def test_stalled_uploads_are_in_nobodys_way(config: ServeConfig, client: openai.AsyncOpenAI) -> None:
    head = ("POST /v1/chat/completions HTTP/1.1", "host: test", "content-type: application/json", "content-length: 99")
    connections = [await asyncio.open_connection(config.host, config.port) for _ in range(100)]
    try:
        for _, writer in connections:
            writer.write("\r\n".join([*head, "", "{"]).encode())
            await writer.drain()
        await health(config)
        await client.chat.completions.create(model="tinymath@greedy", messages=PROMPT)
    finally:
        for _, writer in connections:
            writer.close()
