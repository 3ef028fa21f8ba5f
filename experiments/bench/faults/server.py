"""A server that speaks the token protocol of vLLM's and needs no model: what it writes follows from what it is asked.

Seeds choose the first token of a sequence (where steps are asked for one by one, the first of each), and all others
follow from those before. So a token that is lost, written twice or out of its place shows in the row, and the
server knows which of the tokens that it writes it has written before.
"""

import asyncio
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from transformers import AutoTokenizer

from orchestrator.core.seeds import derive_seed

MODEL = "scripted"
_CONTEXT = 512
_START_S = 30.0
_NUM_STEPS, _STEP_TOKENS = 5, 10
_CHUNK_TOKENS = 4


class _Dropped(Exception):
    """The connection is to break off here."""


class Language:
    """The tokens that the server may write."""

    def __init__(self, tokenizer_folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
        vocab: dict[str, int] = self.tokenizer.get_vocab()
        self.end, self.reply, self.delimiter = vocab["<eos>"], vocab["<assistant>"], vocab["\n\n"]
        self.words = sorted(id for word, id in vocab.items() if word.strip() and word[0] != "<" and word != "Answer")
        self.digits = [vocab[f" {digit}"] for digit in range(10)]
        self.answer = [vocab["Answer"], vocab[":"]]

    def next_token(self, ids: Sequence[int], seed: int, *, by_steps: bool) -> int:
        """After these, which hold the prompt."""
        written = ids[len(ids) - ids[::-1].index(self.reply) :]
        num_steps = written.count(self.delimiter)
        step = written[len(written) - written[::-1].index(self.delimiter) :] if num_steps else written
        draw = random.Random(str((tuple(ids), seed if not step and (by_steps or not written) else None)))
        if num_steps == _NUM_STEPS:
            return [*self.answer, draw.choice(self.digits), self.end][len(step)]
        return self.delimiter if len(step) == _STEP_TOKENS else draw.choice(self.words)


class ScriptedEngine:
    """Owner of what is asked and written. `late_s` and `drop` are the faults that it can have."""

    def __init__(self, language: Language, url: str) -> None:
        self.url = url
        self.pace_s = 0.0  # between two chunks of a stream
        self.late_s = 0.0  # that each answer waits
        self.again = 0  # tokens that this run has written more often than the undisturbed one
        self._language = language
        self._drops = 0
        self._num_streams = 0
        self._seeds: dict[int, int] = {}  # of a request that is asked again -> of the request
        self._counts: Counter[int] = Counter()
        self._usual: Counter[int] = Counter()

    def drop(self) -> int:
        """All streams break off. How many there are."""
        self._drops += 1
        return self._num_streams

    def begin(self) -> None:
        """A run begins."""
        self._counts, self.again = Counter(), 0

    def remember(self) -> None:
        """The run that is over is the one that nothing disturbed."""
        self._usual = self._counts

    async def models(self) -> Response:
        await asyncio.sleep(self.late_s)
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": _CONTEXT}]})

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        await asyncio.sleep(self.late_s)
        if body.get("prompt_logprobs") is not None:
            return JSONResponse(_answer([self._read_back(body["prompt"])]))
        if not body.get("stream"):
            ids = self._language.tokenizer(body["prompt"])["input_ids"]
            choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None}
            return JSONResponse(_answer([{**choice, "prompt_token_ids": ids, "token_ids": [self._language.words[0]]}]))
        return StreamingResponse(self._stream(body), media_type="text/event-stream")

    def _read_back(self, ids: list[int]) -> dict[str, Any]:
        """An endpoint that starts asks for it: every token is as likely."""
        told = [None, *({str(token_id): {"logprob": -1.0}} for token_id in ids[1:])]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None}
        return {**choice, "token_ids": [self._language.words[0]], "prompt_logprobs": told}

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        drops = self._drops
        self._num_streams += 1
        try:
            for token_ids, finish in self._chunks(body):
                await asyncio.sleep(self.pace_s + self.late_s)
                if self._drops > drops:
                    raise _Dropped
                stop_reason = token_ids[-1] if finish and token_ids[-1] in body["stop_token_ids"] else None
                choice = {"index": 0, "text": "", "finish_reason": finish, "stop_reason": stop_reason}
                logprobs = None if body.get("logprobs") is None else self._logprobs(token_ids, body["logprobs"])
                yield _event(_answer([{**choice, "token_ids": token_ids, "logprobs": logprobs}]))
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 0, "total_tokens": 0}
            yield _event({**_answer([]), "usage": usage})
            yield b"data: [DONE]\n\n"
        finally:
            self._num_streams -= 1

    def _chunks(self, body: dict[str, Any]) -> Iterator[tuple[list[int], str | None]]:
        ids, stops = list(body["prompt"]), body["stop_token_ids"]
        seed = self._first_seed(body["seed"])
        chunk: list[int] = []
        for number in range(1, body["max_tokens"] + 1):
            token_id = self._language.next_token(ids, seed, by_steps=bool(stops))
            ids.append(token_id)
            chunk.append(token_id)
            self._count(ids)
            finish = "stop" if token_id in (self._language.end, *stops) else None
            if finish is None and number == body["max_tokens"]:
                finish = "length"
            if finish is not None or len(chunk) == _CHUNK_TOKENS:
                yield chunk, finish
                chunk = []
            if finish is not None:
                return

    def _logprobs(self, token_ids: Sequence[int], num_likeliest: int) -> dict[str, Any]:
        """The same of every token: an endpoint that starts asks for them."""
        likeliest = {f"token_id:{token_id}": -1.0 for token_id in self._language.words[:num_likeliest]}
        tops = [likeliest for _ in token_ids] if num_likeliest else None
        tokens = ["" for _ in token_ids]
        return {"token_logprobs": [-1.0 for _ in token_ids], "tokens": tokens, "top_logprobs": tops, "text_offset": []}

    def _first_seed(self, seed: int) -> int:
        """With which this was asked at first: what died before its first token was seen is asked with another one."""
        first = self._seeds.get(seed, seed)
        self._seeds[derive_seed(seed, "resumed", (0,))] = first
        return first

    def _count(self, ids: Sequence[int]) -> None:
        key = hash(tuple(ids))
        self._counts[key] += 1
        if 0 < self._usual[key] < self._counts[key]:
            self.again += 1


def _answer(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "x", "object": "text_completion", "created": 0, "model": MODEL, "choices": choices, "usage": None}


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


@contextmanager
def scripted_engine(tokenizer_folder: str) -> Iterator[ScriptedEngine]:
    """A server in a thread, on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        engine = ScriptedEngine(Language(tokenizer_folder), f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        app = FastAPI()
        app.add_api_route("/v1/models", engine.models, methods=["GET"])
        app.add_api_route("/v1/completions", engine.complete, methods=["POST"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]), name="scripted-engine", daemon=True)
        thread.start()
        try:
            _wait(lambda: server.started)
            yield engine
        finally:
            server.should_exit = True
            thread.join(_START_S)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"bench: the scripted server did not start in {_START_S:g} s")
        time.sleep(0.01)
