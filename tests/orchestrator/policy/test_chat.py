"""Facts about chat APIs as policies, over a real HTTP server with scripted answers."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from orchestrator.core.confidence import ConfidenceFloor, step_confidence, token_confidence
from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import PoolExhausted, ProblemError, UserError
from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Finish, Generation, Sampling, Segment
from orchestrator.policy import chat
from orchestrator.policy.chat import UNKNOWN_ID, ChatPolicy
from orchestrator.policy.engines import clients
from orchestrator.policy.open import open_policy
from orchestrator.policy.resolve import check_strategies
from orchestrator.search import SearchRuntime, solve
from orchestrator.serving.warming import warm
from strategies import STRATEGIES
from strategies.best_logprob import BestLogprob
from strategies.best_of_n import BestOfN
from strategies.deepconf import DeepConf, SampleConfidence
from strategies.self_certainty import SelfCertainty
from strategies.self_consistency import SelfConsistency
from tests.fakes import PlainAnswers, TextVerifier
from tests.waiting import until

PROBLEM = Problem.from_prompt("p", "2 + 2?")


def completion(text: str | None, finish: str = "stop", tokens: int = 7, **message: Any) -> Response:
    usage: dict[str, Any] = {"prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": 11 + tokens}
    if "reasoning" in message:
        usage["completion_tokens_details"] = {"reasoning_tokens": 3}
    told = {"role": "assistant", "content": text, **message}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    return JSONResponse({**body, "choices": [{"index": 0, "message": told, "finish_reason": finish}]})


def choices(*texts: str, tokens: int, finish: Sequence[str] = ()) -> Response:
    """One completion with several choices."""
    usage = {"prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": 11 + tokens}
    told = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": (*finish, *["stop"] * 9)[i]}
        for i, text in enumerate(texts)
    ]
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    return JSONResponse({**body, "choices": told})


def refusal(status: int) -> Response:
    return JSONResponse({"error": {"message": f"refused with {status}"}}, status, {"retry-after-ms": "1"})


class Server:
    """Answers requests in turn, the last answer again and again."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.answers: list[Response] = [completion("Answer: 4")]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await self.gate.wait()
        return answer


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        scripted = Server(listening.getsockname()[1])
        app = FastAPI()
        app.add_api_route("/v1/chat/completions", scripted.answer, methods=["POST"])
        http = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        task = asyncio.create_task(http.serve(sockets=[listening]))
        yield scripted
        scripted.gate.set()
        http.should_exit = True
        async with asyncio.timeout(10):
            await task


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(clients, "RETRIES", 2)
    async with serving() as scripted:
        yield scripted


@pytest.fixture
def config(server: Server) -> PolicyConfig:
    return PolicyConfig(
        engine="openai", model="m", urls=[server.url], request_timeout_s=5.0, flops_per_token=2.0, max_restarts=0
    )


def runtime(policy: Any, **fields: Any) -> SearchRuntime:
    settings: dict[str, Any] = {"verifier": None, "sampling": Sampling(max_tokens=50), "answers": PlainAnswers()}
    return SearchRuntime(policy=policy, **{**settings, **fields})


async def written(policy: ChatPolicy, n: int = 1, **changes: Any) -> list[tuple[int, Segment]]:
    [prompt] = await policy.encode([PROBLEM])
    request = Generation(prefix_ids=prompt, max_tokens=50, seed=2**40 + 3, temperature=0.5, top_p=0.9)
    async with aclosing(policy.generate([replace(request, **changes)] * n)) as stream:
        return [item async for item in stream]


async def test_a_vote_over_a_chat_api_counts_what_the_server_reports(server: Server, config: PolicyConfig) -> None:
    server.answers = [completion("Answer: 4"), completion("Answer: 5", tokens=9), completion("Answer: 4", tokens=2)]
    async with open_policy(config, StepConfig()) as policy:
        outcome = await solve(PROBLEM, SelfConsistency(n=3).search, runtime(policy).session(1), timeout_s=10)
        [stats] = await policy.stats()
    assert outcome.result is not None and outcome.result.answer == "4", outcome.error
    ledger = outcome.result.ledger
    assert (ledger.prompt_tokens, ledger.generated_tokens) == (3 * 11, 7 + 9 + 2)
    assert ledger.policy_flops == 2.0 * (3 * (11 - 1) + 7 + 9 + 2)
    assert (stats["generated_tokens"], stats["prompt_tokens"], stats["running"]) == (18, 33, 0)
    assert len({asked["seed"] for asked in server.asked}) == 3
    for candidate in outcome.result.candidates:
        assert set(candidate.trajectory.completion_ids) == {UNKNOWN_ID}


async def test_samples_of_one_prompt_are_choices_of_one_request_which_pays_for_it_once(
    server: Server, config: PolicyConfig
) -> None:
    server.answers = [choices("Answer: 4", "Answer: 5", "Answer: 4, surely", tokens=40)]
    async with open_policy(config, StepConfig()) as policy:
        outcome = await solve(PROBLEM, SelfConsistency(n=3).search, runtime(policy).session(1), timeout_s=10)
        [stats] = await policy.stats()
    assert outcome.result is not None and [asked["n"] for asked in server.asked] == [3]
    ledger, candidates = outcome.result.ledger, [c.trajectory for c in outcome.result.candidates]
    assert (ledger.prompt_tokens, ledger.generated_tokens) == (11, 40)
    assert ledger.policy_flops == 2.0 * ((11 + 0 + 0) + 40 - 3)
    assert {c.text: c.cost.generated_tokens for c in candidates}.keys() == {
        "Answer: 4",
        "Answer: 5",
        "Answer: 4, surely",
    }
    assert sum(c.cost.generated_tokens for c in candidates) == 40
    assert sorted(c.cost.prompt_tokens for c in candidates) == [0, 0, 11]
    assert (stats["generated_tokens"], stats["prompt_tokens"], stats["running"]) == (40, 11, 0)


async def test_a_server_that_gives_one_choice_is_asked_for_the_others_one_by_one_and_not_for_several_again(
    server: Server, config: PolicyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [completion(f"Answer: {i}") for i in range(7)]
    async with ChatPolicy.open(config) as policy:
        first = [segment.text for _, segment in await written(policy, n=4)]
        assert sorted(first) == [f"Answer: {i}" for i in range(4)]
        assert [asked.get("n") for asked in server.asked] == [4, None, None, None]
        await written(policy, n=3)
        assert [asked.get("n") for asked in server.asked[4:]] == [None] * 3
    assert caplog.text.count("gives one choice a request") == 1 and "it gave fewer" in caplog.text


async def test_a_server_that_refuses_several_choices_is_asked_one_by_one(
    server: Server, config: PolicyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [refusal(400), *[completion(f"Answer: {i}") for i in range(5)]]
    async with ChatPolicy.open(config) as policy:
        assert len(await written(policy, n=3)) == 3
        await written(policy, n=2)
    assert [asked.get("n") for asked in server.asked] == [3, *[None] * 5]
    assert caplog.text.count("refused with 400") == 1


async def test_a_prompt_that_is_refused_does_not_count_against_choices(server: Server, config: PolicyConfig) -> None:
    server.answers = [refusal(400)]
    async with ChatPolicy.open(config) as policy:
        with pytest.raises(ProblemError, match="refused with 400"):
            await written(policy, n=2)
        server.answers = [choices("a", "b", tokens=2)]
        await written(policy, n=2)
    assert server.asked[-1]["n"] == 2


async def test_a_request_has_as_many_choices_as_may_run_and_its_samples_are_alike(
    server: Server, config: PolicyConfig
) -> None:
    server.answers = [choices("a", "b", tokens=2)]
    async with ChatPolicy.open(replace(config, max_num_seqs=2)) as policy:
        async with asyncio.timeout(5):
            assert len(await written(policy, n=4)) == 4
        assert [asked["n"] for asked in server.asked] == [2, 2]
        server.answers = [completion("a")]
        [prompt] = await policy.encode([PROBLEM])
        request = Generation(prefix_ids=prompt, max_tokens=50, seed=1, temperature=0.5, top_p=0.9)
        async with aclosing(policy.generate([request, replace(request, max_tokens=49)])) as stream:
            assert len([item async for item in stream]) == 2
        assert [asked.get("n") for asked in server.asked[2:]] == [None, None]


async def test_a_sample_that_is_given_up_leaves_the_others_their_request_and_the_last_one_ends_it(
    server: Server, config: PolicyConfig
) -> None:
    server.gate.clear()
    server.answers = [choices("a", "b", tokens=2)]
    async with ChatPolicy.open(config) as policy:
        [prompt] = await policy.encode([PROBLEM])
        requests = [Generation(prefix_ids=prompt, max_tokens=5, seed=i, temperature=1, top_p=1) for i in range(2)]
        stream = policy.generate(requests)
        await until(lambda: len(server.asked) == 1)
        stream.abort([0])
        assert (await anext(stream))[1].finish is Finish.ABORTED
        server.gate.set()
        index, segment = await anext(stream)
        assert (index, segment.finish, segment.prompt_tokens) == (1, Finish.EOS, 11)

        server.gate.clear()
        async with aclosing(policy.generate(requests)):
            await until(lambda: len(server.asked) == 2)
        await until(lambda: policy._servers[0].running == 0)
    assert len(server.asked) == 2


async def test_a_request_says_what_the_configuration_does(server: Server, config: PolicyConfig) -> None:
    examples = [Message(role="user", content="1 + 1?"), Message(role="assistant", content="2")]
    config = replace(config, system_prompt="Be brief.", examples=examples)
    async with ChatPolicy.open(config) as policy:
        await written(policy, stop=("Q:",), top_k=5)
    [asked] = server.asked
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
    assert asked["messages"][-1]["content"] == "2 + 2?"
    wanted = {"model": "m", "max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "stop": ["Q:"], "top_k": 5}
    assert wanted.items() <= asked.items() and 0 <= asked["seed"] < 2**31
    assert "min_p" not in asked and "repetition_penalty" not in asked


async def test_thinking_that_the_server_reports_is_kept_apart(server: Server, config: PolicyConfig) -> None:
    server.answers = [completion("Answer: 4", reasoning="2 and 2 is Answer: 9")]
    async with ChatPolicy.open(config) as policy:
        outcome = await solve(PROBLEM, SelfConsistency(n=1).search, runtime(policy).session(1), timeout_s=10)
    assert outcome.result is not None and outcome.result.answer == "4"
    assert (outcome.result.ledger.thinking_tokens, outcome.result.ledger.generated_tokens) == (3, 7)
    assert outcome.result.candidates[0].trajectory.thoughts == "2 and 2 is Answer: 9"


async def test_thinking_is_kept_apart_where_the_server_does_not_count_it(server: Server, config: PolicyConfig) -> None:
    server.answers = [completion("Answer: 4", reasoning_content="Answer: 9")]
    async with ChatPolicy.open(config) as policy:
        outcome = await solve(PROBLEM, SelfConsistency(n=1).search, runtime(policy).session(1), timeout_s=10)
    assert outcome.result is not None and outcome.result.answer == "4"
    assert outcome.result.candidates[0].trajectory.thoughts == "Answer: 9"
    assert (outcome.result.ledger.thinking_tokens, outcome.result.ledger.generated_tokens) == (0, 7)


async def test_verifiers_of_text_judge_what_a_chat_api_writes(server: Server, config: PolicyConfig) -> None:
    server.answers = [completion("Answer: 4"), completion("Answer: 5")]
    verifier = TextVerifier(lambda text: 0.9 if "5" in text else 0.1, scores_steps=False)
    async with ChatPolicy.open(config) as policy:
        session = runtime(policy, verifier=verifier).session(1)
        outcome = await solve(PROBLEM, BestOfN(n=2).search, session, timeout_s=10)
    assert outcome.result is not None and outcome.result.answer == "5", outcome.error


async def test_a_completion_that_is_cut_off_is_truncated(server: Server, config: PolicyConfig) -> None:
    server.answers = [completion("Ans", finish="length", tokens=50)]
    async with ChatPolicy.open(config) as policy:
        [(_, segment)] = await written(policy)
    assert segment.finish is Finish.LENGTH and len(segment.token_ids) == 50


async def test_what_is_aborted_says_so_and_the_rest_goes_on(server: Server, config: PolicyConfig) -> None:
    server.gate.clear()
    async with ChatPolicy.open(config) as policy:
        [prompt] = await policy.encode([PROBLEM])
        requests = [Generation(prefix_ids=prompt, max_tokens=5 + i, seed=i, temperature=1, top_p=1) for i in range(2)]
        stream = policy.generate(requests)
        await until(lambda: len(server.asked) == 2)
        stream.abort([0])
        assert (await anext(stream))[1].finish is Finish.ABORTED
        server.gate.set()
        index, segment = await anext(stream)
        assert (index, segment.finish) == (1, Finish.EOS)


@pytest.mark.parametrize("status", [429, 500])
async def test_what_a_busy_server_refuses_is_asked_again(server: Server, config: PolicyConfig, status: int) -> None:
    server.answers = [refusal(status), refusal(status), completion("Answer: 4")]
    async with ChatPolicy.open(config) as policy:
        [(_, segment)] = await written(policy)
    assert segment.text == "Answer: 4" and len(server.asked) == 3


@pytest.mark.parametrize("answer", [refusal(500), PlainTextResponse("<html>"), JSONResponse({"choices": []})])
async def test_an_address_that_fails_is_left_alone_and_the_others_do_its_work(
    server: Server, config: PolicyConfig, answer: Response
) -> None:
    async with serving() as other:
        server.answers = [answer]
        async with ChatPolicy.open(replace(config, urls=[server.url, other.url], replicas=2)) as policy:
            segments = [segment for _, segment in await written(policy, n=6)]
            assert [segment.text for segment in segments] == ["Answer: 4"] * 6
            assert policy.num_ready == 1
            asked = len(server.asked)
            await written(policy, n=4)
            assert len(server.asked) == asked and len(other.asked) == 10


async def test_where_no_address_answers_they_are_asked_again_later(
    server: Server, config: PolicyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_REST_S", 0.01)
    server.answers = [refusal(429)] * 6 + [completion("Answer: 4")]
    async with ChatPolicy.open(replace(config, max_restarts=2)) as policy:
        [(_, segment)] = await written(policy)
    assert segment.text == "Answer: 4" and len(server.asked) == 7


async def test_where_no_address_answers_the_run_is_told(server: Server, config: PolicyConfig) -> None:
    server.answers = [refusal(503)]
    async with ChatPolicy.open(config) as policy:
        with pytest.raises(PoolExhausted, match=r"none of 1 servers answers, the last: .*refused with 503"):
            await written(policy)
    async with ChatPolicy.open(replace(config, urls=["http://127.0.0.1:1/v1"])) as policy:
        with pytest.raises(PoolExhausted, match="none of 1 servers answers"):
            await written(policy)


@pytest.mark.parametrize(("status", "error"), [(400, ProblemError), (401, UserError), (404, UserError)])
async def test_what_is_refused_for_good_is_not_asked_again(
    server: Server, config: PolicyConfig, status: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_KEY", "secret")
    server.answers = [refusal(status)]
    async with ChatPolicy.open(replace(config, api_key_env="CHAT_KEY")) as policy:
        with pytest.raises(error, match=f"refused with {status}") as raised:
            await written(policy)
    assert len(server.asked) == 1 and server.keys == ["Bearer secret"] and "secret" not in str(raised.value)


async def test_a_server_that_stalls_has_a_timeout(
    server: Server, config: PolicyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "RETRIES", 0)
    server.gate.clear()
    async with ChatPolicy.open(replace(config, request_timeout_s=0.2)) as policy:
        with pytest.raises(PoolExhausted, match="APITimeoutError"):
            await written(policy)


# log-probabilities


def likely(*logprobs: float) -> dict[str, Any]:
    """A token of a reply, which is the first of those at its place."""
    tops = [{"token": str(index), "logprob": logprob} for index, logprob in enumerate(logprobs)]
    return {**tops[0], "top_logprobs": tops}


def with_logprobs(text: str, *tokens: dict[str, Any], **message: Any) -> Response:
    told = completion(text, tokens=len(tokens), **message)
    body = json.loads(bytes(told.body))
    body["choices"][0]["logprobs"] = {"content": list(tokens)}
    return JSONResponse(body)


async def test_confidence_comes_from_the_likeliest_tokens_of_a_reply(server: Server, config: PolicyConfig) -> None:
    server.answers = [with_logprobs("Answer: 4", likely(-0.1, -3.0), likely(-0.2, -2.0))]
    async with ChatPolicy.open(config) as policy:
        [(_, segment)] = await written(policy, logprobs=2)
        [(_, own)] = await written(policy, logprobs=0)
    assert segment.logprob == own.logprob == pytest.approx(-0.3)
    assert segment.confidence == step_confidence([token_confidence([-0.1, -3.0]), token_confidence([-0.2, -2.0])])
    assert own.confidence is None
    assert [(asked.get("logprobs"), asked.get("top_logprobs")) for asked in server.asked] == [(True, 2), (True, None)]


async def test_the_last_tokens_that_are_told_are_those_of_the_reply(server: Server, config: PolicyConfig) -> None:
    tokens = [likely(-1.0), likely(-2.0), likely(-4.0), likely(-0.5)]
    server.answers = [with_logprobs("Answer: 4", *tokens, reasoning="so")]  # 3 of the 4 are thinking
    async with ChatPolicy.open(config) as policy:
        (_, thought), (_, reply) = await written(policy, logprobs=1)
    assert (thought.logprob, reply.logprob) == (-7.0, -0.5)


async def test_strategies_of_confidence_run_over_a_chat_api(server: Server, config: PolicyConfig) -> None:
    sure, unsure = with_logprobs("Answer: 4", likely(-0.1, -9.0)), with_logprobs("Answer: 5", likely(-0.6, -0.8))
    for strategy in (DeepConf(n=3, keep=0.3), BestLogprob(n=3), SelfCertainty(n=3)):
        server.answers = [unsure, sure, unsure]
        async with ChatPolicy.open(config) as policy:
            outcome = await solve(PROBLEM, strategy.search, runtime(policy).session(1), timeout_s=10)
        assert outcome.result is not None and outcome.result.answer == "4", outcome.error


@pytest.mark.parametrize("wanted", [0, 2])
async def test_a_chat_api_that_tells_no_logprobs_ends_the_run(
    server: Server, config: PolicyConfig, wanted: int
) -> None:
    async with ChatPolicy.open(config) as policy:
        with pytest.raises(UserError, match=f"m tells no log-probabilities.*wanted .*top_logprobs: {wanted}"):
            await written(policy, logprobs=wanted)


async def test_an_endpoint_over_a_chat_api_warms_up_without_logprobs(server: Server, config: PolicyConfig) -> None:
    async with ChatPolicy.open(config) as policy:
        await warm(policy, None, PlainAnswers(), logprobs=False)
    assert server.asked and not any(asked.get("logprobs") for asked in server.asked)


# what text alone can't do


async def test_what_needs_token_ids_is_refused(server: Server, config: PolicyConfig) -> None:
    async with AsyncExitStack() as stack:
        policy = await stack.enter_async_context(ChatPolicy.open(config))
        floor = ConfidenceFloor(group_tokens=1, least=1.0)
        for changes in ({"until_step": True}, {"logprobs": 1, "floor": floor}, {"prefix_ids": (1, 2)}):
            with pytest.raises(UserError, match="returns text and no token ids"):
                await written(policy, **changes)
        with pytest.raises(UserError, match="nothing can be injected: got 'Wait'"):
            await policy.encode_text(["Wait"])
    assert server.asked == []


def test_strategies_that_go_on_from_steps_are_refused_before_anything_is_asked(config: PolicyConfig) -> None:
    refused, taken = needy(config), needy(replace(config, tokenizer="folder"))
    assert {"beam_search", "mcts", "budget_forcing", "early_stop", "rebase", "deepconf_online"} <= set(
        refused
    ) and taken == []
    assert not {"greedy", "best_of_n", "self_consistency", "adaptive_consistency", "self_refine"} & set(refused)
    assert not {"best_logprob", "deepconf", "self_certainty"} & set(refused)


def needy(config: PolicyConfig) -> Sequence[str]:
    refused = []
    strategies = {name: cls() for name, cls in STRATEGIES.items()}
    strategies["deepconf_online"] = DeepConf(n_warmup=4, confidence=SampleConfidence.lowest_group)
    for name, strategy in strategies.items():
        try:
            check_strategies(config, {name: strategy})
        except UserError as error:
            assert f"policy: {name} goes on from what was written" in str(error)
            refused.append(name)
    return refused
