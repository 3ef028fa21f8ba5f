"""One replica of a verifier: a thin Ray actor over a `VerifierHost`, which a single thread calls.

That thread's queue is the order of things. Calls that wait while the model reads are read together when it is done.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.config import VerifierConfig
from orchestrator.verifier.loading import load_host
from verifiers import VerifierEntry
from verifiers.contract import Answer, Missing, Run, StateBlob, VerifierHost, VerifierInfo

T = TypeVar("T")


@dataclass(slots=True)
class _Request:
    """A call of `read` that waits for the thread."""

    runs: Sequence[Run]
    answers: list[Answer] | Exception | None = None


class VerifierActor:
    """Owns the host of one replica and its thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="verifier")
        self._requests: deque[_Request] = deque()
        self._batch_tokens = 0
        self._tokens_read = 0

    async def load(self, entry: VerifierEntry, options: Any, config: VerifierConfig) -> tuple[VerifierInfo, int]:
        """Loads the model. Returns what it says about itself and the process id. Raises ValueError."""
        self._batch_tokens = 0 if entry.alone else config.batch_tokens

        def load() -> VerifierHost:
            import torch

            torch.set_num_threads(config.num_cpus)
            return load_host(entry, options, config)

        self._host = await self._in_thread(load)
        return self._host.info, os.getpid()

    async def read(self, runs: Sequence[Run]) -> list[Answer]:
        request = _Request(runs)
        self._requests.append(request)
        return await self._in_thread(lambda: self._serve(request))

    async def stats(self) -> dict[str, int]:
        return {"tokens_read": self._tokens_read}

    async def release(self, keys: Sequence[str]) -> None:
        await self._in_thread(lambda: self._host.release(keys))

    async def export(self, keys: Sequence[str]) -> tuple[int, list[StateBlob | None]]:
        """Two Ray objects: how many states were found, and the states, which only their receiver need fetch."""
        blobs = await self._in_thread(lambda: self._host.export(keys))
        return sum(blob is not None for blob in blobs), blobs

    async def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        await self._in_thread(lambda: self._host.import_(keys, blobs))

    def _serve(self, request: _Request) -> list[Answer]:
        """Reads the request, with those behind it that fit in a micro-batch; or it was read with an earlier one."""
        if request.answers is None:
            batch, num_tokens = [self._requests.popleft()], 0
            assert batch[0] is request, "requests are served in order"
            while self._requests:
                num_tokens += sum(len(run.token_ids) for run in batch[-1].runs)
                if num_tokens >= self._batch_tokens:
                    break
                batch.append(self._requests.popleft())
            try:
                answers = self._host.read([run for r in batch for run in r.runs])
            except Exception as error:  # every caller gets it
                for r in batch:
                    r.answers = error
            else:
                self._tokens_read += sum(answer.tokens_read for answer in answers if not isinstance(answer, Missing))
                for r in batch:
                    r.answers, answers = answers[: len(r.runs)], answers[len(r.runs) :]
        if isinstance(request.answers, Exception):
            raise request.answers
        assert request.answers is not None
        return request.answers

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
