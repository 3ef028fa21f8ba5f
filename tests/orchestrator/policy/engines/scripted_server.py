"""A real HTTP server that speaks the token protocol of vLLM's, and does what a test says."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from transformers import PreTrainedTokenizerBase


class ScriptedServer:
    """Writes the tokens of `text` after any prompt, one in a chunk; `position` is what the prompt ends with of them."""

    def __init__(self, port: int, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.tokenizer = tokenizer
        self.tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        self.model: dict[str, Any] = {"id": "m", "object": "model", "max_model_len": 256}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusals: list[Response] = []  # answers to the next streamed requests
        self.fails = False  # at every request to write
        self.cuts: list[int] = []  # tokens after which the next streams end
        self.chunks: list[bytes] = []  # what comes in place of the next chunks
        self.stalls_after: int | None = None  # tokens of a stream
        self.pause_s = 0.0  # before each token
        self.left = 0  # streams whose client went away
        self.returns_token_ids = True
        self.tells_logprobs = True
        self.says_why = True  # its last token has a finish_reason
        self.metrics = ""
        self.offset = 0  # added to the ids of the tokens of texts

    async def models(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": [self.model]})

    async def tell_metrics(self) -> Response:
        return PlainTextResponse(self.metrics, 200 if self.metrics else 404)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        if self.fails:
            return refusal(500)
        if not body.get("stream"):
            return JSONResponse(self._whole(body))
        self.asked.append(body)
        if self.refusals:
            return self.refusals.pop(0)
        return StreamingResponse(self._stream(body, request), media_type="text/event-stream")

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("prompt_logprobs") is not None:
            return self._read_back(body)
        ids = [token_id + self.offset for token_id in self.tokenizer(body["prompt"])["input_ids"]]
        told = {"prompt_token_ids": ids, "token_ids": [5]} if self.returns_token_ids else {}
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None, **told}
        return {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}

    def _read_back(self, body: dict[str, Any]) -> dict[str, Any]:
        """Each token of the prompt, and the token 0 in its place."""
        told = [{str(id): {"logprob": -2.5, "rank": 2}, "0": {"logprob": -0.5, "rank": 1}} for id in body["prompt"]]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None, "token_ids": [5]}
        choice["prompt_logprobs"] = [None, *told[1:]] if self.tells_logprobs else None
        return {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}

    async def _stream(self, body: dict[str, Any], request: Request) -> AsyncIterator[bytes]:
        done = sampled_of(body["prompt"], self.tokens)
        cut = self.cuts.pop(0) if self.cuts else None
        try:
            if self.stalls_after == 0:
                await asyncio.Event().wait()
            for number, token_id in enumerate(self.tokens[done:], start=1):
                await asyncio.sleep(self.pause_s)
                if self.chunks:
                    yield self.chunks.pop(0)
                    continue
                finish = None
                if token_id in (self.tokenizer.eos_token_id, *body["stop_token_ids"]):
                    finish = "stop"
                elif number == body["max_tokens"]:
                    finish = "length" if self.says_why else None
                stop_reason = token_id if token_id in body["stop_token_ids"] else None
                logprobs = {"token_logprobs": [-2.5], "tokens": [""], "top_logprobs": None, "text_offset": []}
                if body["logprobs"]:  # the sampled token first, beside as many likeliest ones as were asked for
                    likeliest = {f"token_id:{id}": -0.5 - id for id in range(body["logprobs"])}
                    logprobs["top_logprobs"] = [{f"token_id:{token_id}": -2.5, **likeliest}]
                if not self.tells_logprobs:
                    logprobs = None
                choice = {"index": 0, "text": "", "finish_reason": finish, "token_ids": [token_id]}
                choice |= {"stop_reason": stop_reason, "logprobs": None if body.get("logprobs") is None else logprobs}
                yield event({"choices": [choice], "usage": None})
                if number == self.stalls_after:
                    await asyncio.Event().wait()
                if cut == number:
                    return
                if finish is not None:
                    break
            details = {"cached_tokens": 3}
            usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, "prompt_tokens_details": details}
            yield event({"choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left += 1
            raise


def sampled_of(prompt: list[int], tokens: list[int]) -> int:
    """How many of the tokens the prompt ends with."""
    return max(size for size in range(len(tokens)) if size == 0 or prompt[-size:] == tokens[:size])


def event(content: dict[str, Any]) -> bytes:
    body = {"id": "x", "object": "text_completion", "created": 0, "model": "m", **content}
    return f"data: {json.dumps(body)}\n\n".encode()


def refusal(status: int) -> Response:
    return JSONResponse({"error": {"message": f"refused with {status}"}}, status, {"retry-after-ms": "1"})


@asynccontextmanager
async def scripted_server(tokenizer: PreTrainedTokenizerBase, text: str) -> AsyncIterator[ScriptedServer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        scripted = ScriptedServer(listening.getsockname()[1], tokenizer, text)
        app = FastAPI()
        app.add_api_route("/v1/models", scripted.models, methods=["GET"])
        app.add_api_route("/metrics", scripted.tell_metrics, methods=["GET"])
        app.add_api_route("/v1/completions", scripted.complete, methods=["POST"])
        http = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        yield scripted
        http.should_exit = True
        async with asyncio.timeout(10):
            await serving
