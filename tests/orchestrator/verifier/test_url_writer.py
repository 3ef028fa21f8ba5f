"""Facts about chains that a server writes, over a real one with scripted answers."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from math import log
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import ScoreRequest, Solution, Verdict
from orchestrator.policy.engines import clients
from orchestrator.verifier.generative import GenerativeVerifier
from orchestrator.verifier.url_writer import UrlWriter
from verifiers.generative import GenerativePRM
from verifiers.generative_options import GenerativeOptions, averaged
from verifiers.weighing import ScoreBy

GOOD = "Step 1: It holds. The step is \\boxed{correct}"
BAD = "Step 1: It fails. The step is \\boxed{incorrect}"


def completion(text: str | None, finish: str = "stop", **changes: Any) -> Response:
    message = {"role": "assistant", "content": text}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
    return JSONResponse(body | changes)


def refusal(status: int, **headers: str) -> Response:
    return JSONResponse({"error": {"message": f"refused with {status}"}}, status, {"retry-after-ms": "1", **headers})


class Server:
    """Answers requests in turn, the last answer again and again."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.answers: list[Response] = [completion(GOOD)]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.delay_s = 0.0
        self.in_flight = self.most_in_flight = 0

    async def answer(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(self.delay_s)
        self.in_flight -= 1
        return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        scripted = Server(listening.getsockname()[1])
        app = FastAPI()
        app.add_api_route("/v1/chat/completions", scripted.answer, methods=["POST"])
        http = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        yield scripted
        http.should_exit = True
        async with asyncio.timeout(10):
            await serving


@pytest.fixture
def judge(server: Server) -> GenerativeOptions:
    return GenerativePRM(url=server.url, chains=1, flops_per_token=2.0, timeout_s=10.0)


def reading(text: str = "One.") -> ScoreRequest:
    solution = Solution(problem=Problem.from_prompt("p", "Q?"), steps=(text,), asked=(0,))
    return ScoreRequest(token_ids=(1, 2), boundaries=(2,), solution=solution)


async def verdicts(judge: GenerativeOptions, *readings: ScoreRequest) -> list[Verdict]:
    async with UrlWriter.open(judge, "m") as writer:
        return await GenerativeVerifier(judge, writer).score(readings or [reading()])


async def means(judge: GenerativeOptions, *readings: ScoreRequest) -> list[float]:
    return [verdict.scores[0].mean for verdict in await verdicts(judge, *readings)]


async def test_chains_are_requests_and_the_servers_usage_is_what_counts(
    server: Server, judge: GenerativeOptions
) -> None:
    server.answers = [completion(GOOD), completion(BAD), completion(None), completion(GOOD)]
    judge = replace(judge, chains=4, max_tokens=77, temperature=0.5)
    async with UrlWriter.open(judge, "m") as writer:
        [verdict] = await GenerativeVerifier(judge, writer).score([reading()])
    assert verdict.scores[0].mean == pytest.approx(averaged([1.0, 0.0, 1.0]).mean)
    assert verdict.verifier_tokens == 4 * 110
    assert verdict.flops == 2.0 * 4 * 110
    assert {(body["model"], body["max_tokens"], body["temperature"]) for body in server.asked} == {("m", 77, 0.5)}
    assert "Step 1: One." in server.asked[0]["messages"][0]["content"]
    assert len({body["seed"] for body in server.asked}) == 4


async def test_unknown_flops_are_said_to_be_left_out(
    server: Server, judge: GenerativeOptions, caplog: pytest.LogCaptureFixture
) -> None:
    judge = replace(judge, flops_per_token=None)
    async with UrlWriter.open(judge, "m") as writer:
        [verdict] = await GenerativeVerifier(judge, writer).score([reading()])
    assert (verdict.verifier_tokens, verdict.flops) == (110, 0.0)
    assert "FLOPs of m at http://127.0.0.1" in caplog.text


async def test_the_key_comes_from_the_environment(
    server: Server, judge: GenerativeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "not for this server")
    await means(replace(judge, api_key_env="JUDGE_KEY"))
    await means(judge)
    assert server.keys == ["Bearer secret", "Bearer none"]
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match="environment variable JUDGE_KEY is not set"):
        await means(replace(judge, api_key_env="JUDGE_KEY"))


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_is_busy_is_asked_again(server: Server, judge: GenerativeOptions, status: int) -> None:
    server.answers = [refusal(status), completion(GOOD)]
    assert await means(judge) == [1.0]
    assert len(server.asked) == 2


async def test_a_server_that_stays_busy_is_a_fault(server: Server, judge: GenerativeOptions) -> None:
    server.answers = [refusal(429)]
    with pytest.raises(ReplicaError, match=r"verifier: http.*RateLimitError.* 429"):
        await means(judge)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [401, 404])
async def test_a_model_that_may_not_be_asked_is_the_users_error_at_once(
    server: Server, judge: GenerativeOptions, status: int
) -> None:
    server.answers = [refusal(status)]
    with pytest.raises(UserError, match=f"verifier: http.* refuses .*refused with {status}"):
        await means(judge)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 422])
async def test_a_request_that_is_refused_is_not_repeated_and_leaves_the_others_their_scores(
    server: Server, judge: GenerativeOptions, status: int
) -> None:
    server.answers = [refusal(status), completion(GOOD)]
    refused, good = await verdicts(replace(judge, requests_in_flight=1), reading("a"), reading("b"))
    assert refused.unjudged is not None and f"refused with {status}" in refused.unjudged
    assert [score.mean for score in good.scores] == [1.0]
    assert len(server.asked) == 2


async def test_a_server_that_does_not_answer_is_a_fault_within_its_time(
    server: Server, judge: GenerativeOptions
) -> None:
    server.delay_s = 5.0
    async with asyncio.timeout(3):
        with pytest.raises(ReplicaError, match=r"no answer within 0\.4 s"):
            await means(replace(judge, timeout_s=0.1))


async def test_a_server_that_is_not_there_is_a_fault(judge: GenerativeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "RETRIES", 0)
    with pytest.raises(ReplicaError, match="APIConnectionError"):
        await means(replace(judge, url="http://127.0.0.1:1/v1"))


@pytest.mark.parametrize(
    "answer",
    [
        lambda: completion(GOOD, choices=[]),
        lambda: completion(GOOD, choices=None),
        lambda: completion(GOOD, usage=None),
        lambda: completion(GOOD, usage={"total_tokens": 3}),
        lambda: JSONResponse([1, 2]),
        lambda: JSONResponse({}),
        lambda: PlainTextResponse("<html>"),
        lambda: Response("{", media_type="application/json"),
    ],
)
async def test_a_malformed_answer_is_a_fault_and_no_score(
    server: Server, judge: GenerativeOptions, answer: Callable[[], Response]
) -> None:
    server.answers = [answer()]
    with pytest.raises(ReplicaError, match="verifier: http"):
        await means(judge)


@pytest.mark.parametrize("fault", [lambda: refusal(500), lambda: PlainTextResponse("<html>")])
async def test_a_prompt_that_breaks_a_server_which_answers_others_is_unjudged(
    server: Server, judge: GenerativeOptions, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], Response]
) -> None:
    monkeypatch.setattr(clients, "RETRIES", 0)
    server.answers = [fault(), completion("Yes"), completion(GOOD)]
    broken, good = await verdicts(replace(judge, requests_in_flight=1), reading("a"), reading("b"))
    assert broken.unjudged is not None and f"verifier: {server.url}: " in broken.unjudged
    assert [score.mean for score in good.scores] == [1.0]
    assert len(server.asked) == 3


async def test_chains_without_a_verdict_are_no_score(server: Server, judge: GenerativeOptions) -> None:
    server.answers = [completion("Step 1: It ho", finish="length")]
    [verdict] = await verdicts(judge, reading("a"))
    assert verdict.unjudged is not None
    assert re.match(r"none of 1 .*\(1 were cut off at max_tokens 4096\).*no verdict for step 1", verdict.unjudged)


async def test_requests_in_flight_are_bounded_and_answers_keep_their_order(
    server: Server, judge: GenerativeOptions
) -> None:
    server.delay_s = 0.02
    server.answers = [completion(GOOD), completion(BAD), completion(GOOD), completion(BAD)]
    judge = replace(judge, requests_in_flight=1)
    assert await means(judge, *(reading(text) for text in "abcd")) == [1.0, 0.0, 1.0, 0.0]
    assert server.most_in_flight == 1
    assert sum(await means(replace(judge, requests_in_flight=3), *(reading(text) for text in "abcdef"))) == 0.0
    assert server.most_in_flight == 3


def told(*tokens: tuple[str, dict[str, float]], raw: bool = True) -> dict[str, Any]:
    """The log-probabilities of a completion, token by token, with those of the others in their places."""
    content = [
        {
            "token": text,
            "bytes": list(text.encode()) if raw else None,
            "logprob": shares[text],
            "top_logprobs": [{"token": t, "bytes": None, "logprob": p} for t, p in shares.items()],
        }
        for text, shares in tokens
    ]
    return {"logprobs": {"content": content}}


def with_logprobs(text: str, logprobs: dict[str, Any]) -> Response:
    message = {"role": "assistant", "content": text}
    return completion(text, choices=[{"index": 0, "message": message, "finish_reason": "stop", **logprobs}])


@pytest.mark.parametrize("raw", [True, False])
async def test_a_score_by_probability_reads_what_the_server_tells_of_the_verdict(
    server: Server, judge: GenerativeOptions, raw: bool
) -> None:
    tokens = [
        ("é correct", {"é correct": 0.0}),  # of thinking, which the text leaves out
        ("Step 1: é \\boxed{", {"Step 1: é \\boxed{": 0.0}),
        ("correct", {"correct": log(0.6), "in": log(0.2), "x": log(0.2)}),
        ("}", {"}": 0.0}),
        ("<end>", {"<end>": 0.0}),
    ]
    server.answers = [with_logprobs("Step 1: é \\boxed{correct}", told(*tokens, raw=raw))]
    assert await means(replace(judge, score=ScoreBy.PROBABILITY)) == [pytest.approx(0.75)]
    [asked] = server.asked
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 20)


async def test_without_a_score_by_probability_no_log_probabilities_are_asked_for(
    server: Server, judge: GenerativeOptions
) -> None:
    await means(judge)
    assert "logprobs" not in server.asked[0] and "top_logprobs" not in server.asked[0]


@pytest.mark.parametrize("content", [{}, {"logprobs": None}, {"logprobs": {"content": None}}])
async def test_a_server_that_tells_no_log_probabilities_ends_the_run(
    server: Server, judge: GenerativeOptions, content: dict[str, Any]
) -> None:
    server.answers = [with_logprobs(GOOD, content)]
    with pytest.raises(UserError, match=r"tells no log-probabilities, got .* wanted those of 20 top_logprobs"):
        await means(replace(judge, score=ScoreBy.PROBABILITY))


async def test_tokens_that_do_not_read_as_the_text_give_no_score(server: Server, judge: GenerativeOptions) -> None:
    server.answers = [with_logprobs(GOOD, told(("Step", {"Step": 0.0})))]
    [verdict] = await verdicts(replace(judge, score=ScoreBy.PROBABILITY))
    assert verdict.scores == () and "told no log-probabilities of the verdict" in (verdict.unjudged or "")
