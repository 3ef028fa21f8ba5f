"""What a session costs its driver: searches over a policy and a verifier that answer at once, without pools and Ray.

A step is one that was written and scored. CPU seconds are the process's own, so that other work on the machine counts
little. Cells with trees record the tree of each search and make its table, as a run does by default. `headrace bench
control_plane` measures drivers with pools and Ray.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Self

from experiments.bench.core import Measured, interleave, ratio_of, spread
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Problem, Score, StateHandle
from orchestrator.core.protocols import Finish, Generation, Sampling, ScoreRequest, Segment, Strategy, Verdict
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.results import tree_table
from orchestrator.results.trees import TreeRecorder
from orchestrator.search import SearchRuntime, for_each, solve
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN

GOAL = 8000  # steps per CPU second of beam search with trees
NUM_PROBLEMS, IN_FLIGHT = 128, 64
SOLUTION_STEPS, STEP_TOKENS, PROMPT_TOKENS = 6, 10, 40
STRATEGIES: dict[str, Strategy] = {"beam_search": BeamSearch(n=16, beam_width=4), "best_of_n": BestOfN(n=16)}

WITH_TREES = " with trees"
_TREE_KEYS = {"run_id": "bench", "strategy": "bench", "params": "{}", "label": "bench", "seed": 0}


async def measure(*, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    async def steps_per_cpu_s(strategy: Strategy, keep_trees: bool, repeat: int) -> float:
        began = time.process_time()
        steps = await search(strategy, NUM_PROBLEMS, seed=repeat, keep_trees=keep_trees)
        return steps / (time.process_time() - began)

    variants = {
        name + ending: partial(steps_per_cpu_s, strategy, keep_trees)
        for name, strategy in STRATEGIES.items()
        for ending, keep_trees in (("", False), (WITH_TREES, True))
    }
    speeds = await interleave(repeats, variants, on_repeat)
    return Measured(
        **ratio_of(speeds["beam_search" + WITH_TREES], [GOAL] * repeats),
        baseline=f"{GOAL} steps of beam search with trees per CPU second, policy and verifier answer at once",
        goal=">= 1",
        settings={
            "problems": NUM_PROBLEMS,
            "in_flight": IN_FLIGHT,
            "solution_steps": SOLUTION_STEPS,
            "step_tokens": STEP_TOKENS,
            "prompt_tokens": PROMPT_TOKENS,
            "repeats": repeats,
        },
        details={"steps_per_cpu_s": {name: spread(values) for name, values in speeds.items()}},
    )


async def search(strategy: Strategy, num_problems: int, *, seed: int, keep_trees: bool = False) -> int:
    """Solves so many problems. How many steps were scored."""
    verifier = InstantVerifier()
    runtime = SearchRuntime(
        policy=InstantPolicy(),
        verifier=verifier,
        answers=ExactAnswers(AnswerFormat.parse(None)),
        sampling=Sampling(temperature=1.0, max_tokens=2 * SOLUTION_STEPS * STEP_TOKENS),
    )

    async def work(problem: Problem) -> None:
        recorder = TreeRecorder() if keep_trees else None
        outcome = await solve(problem, strategy.search, runtime.session(seed, recorder), timeout_s=600)
        if outcome.error is not None:
            raise outcome.error
        if recorder is not None:
            tree_table(recorder.rows(problem.text, {**_TREE_KEYS, "problem_id": problem.id}))

    await for_each([Problem.from_prompt(f"{i}", "?") for i in range(num_problems)], work, in_flight=IN_FLIGHT)
    return verifier.num_scores


def _segments(text: str, finish: Finish | None) -> list[Segment]:
    drawn = [tuple((7 * place + first) % 97 for place in range(STEP_TOKENS)) for first in range(97)]
    return [Segment(token_ids=token_ids, text=text, finish=finish) for token_ids in drawn]


_INNER, _BOUNDARY = _segments("a step\n\n", None), _segments("a step\n\n", Finish.BOUNDARY)
_END = _segments("Answer: 1", Finish.EOS)
_SCORES = [Score(mean=value / 97) for value in range(97)]


class InstantPolicy:
    """Implements `Policy`. Its segments are made before, and drawn by the seed of the request."""

    shape = ModelShape(weights_per_token=1000, head_weights=100, num_layers=2, attention_width=8)
    context_length = 4096
    thinking: ThinkingMarkers | None = None

    async def encode(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        return [tuple(range(PROMPT_TOKENS)) for _ in problems]

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [tuple(text.encode()) for text in texts]

    def generate(self, requests: Sequence[Generation]) -> "InstantStream":
        return InstantStream(requests)


class InstantStream:
    """Implements `GenerationStream`: the first step of each request, then the second, and so on."""

    def __init__(self, requests: Sequence[Generation]) -> None:
        items = [
            (written, index, segment)
            for index, request in enumerate(requests)
            for written, segment in enumerate(_continuation(request))
        ]
        items.sort(key=lambda item: item[:2])
        self._items = iter([(index, segment) for _, index, segment in items])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Segment]:
        for item in self._items:
            return item
        raise StopAsyncIteration

    def abort(self, indices: Sequence[int]) -> None:
        """Everything has been written."""

    async def aclose(self) -> None:
        """Nothing is left."""


def _continuation(request: Generation) -> list[Segment]:
    assert request.num_prompt is not None, "a session says where the prompt ends"
    left = SOLUTION_STEPS - (len(request.prefix_ids) - request.num_prompt) // STEP_TOKENS
    draw = request.seed % 97
    if request.until_step:
        return [_END[draw] if left == 1 else _BOUNDARY[draw]]
    return [*[_INNER[draw]] * (left - 1), _END[draw]]


class InstantVerifier:
    """Implements `Verifier`: a score of the last tokens, and a handle to no state."""

    scores_steps, reads_text, reads_tokens = True, False, True
    flops_per_token, state_bytes = 100.0, 1000

    def __init__(self) -> None:
        self.num_scores = 0
        self._keys = count()

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        return [self._verdict(reading) for reading in readings]

    def _verdict(self, reading: ScoreRequest) -> Verdict:
        num_tokens = len(reading.token_ids)
        self.num_scores += len(reading.boundaries)
        return Verdict(
            scores=tuple([_SCORES[sum(reading.token_ids[end - 3 : end]) % 97] for end in reading.boundaries]),
            handle=StateHandle(replica=0, epoch=0, key=f"{next(self._keys)}", num_tokens=num_tokens),
            verifier_tokens=num_tokens if reading.handle is None else num_tokens - reading.handle.num_tokens,
        )

    def release(self, handles: Sequence[StateHandle]) -> None:
        """There is nothing to free."""
