"""Searches for the page to show, as the events of a trace."""

import random
from typing import Any


def best_of_n(n: int, steps: int) -> list[dict[str, Any]]:
    """`n` candidates of so many steps, scored as they come."""
    rng, events, at = (
        random.Random(0),
        [{"type": "fork", "path": [], "children": [[i] for i in range(n)], "at": 0.0}],
        0.0,
    )
    best = (0.0, [0])
    for index in range(steps):
        for child in range(n):
            at, last, score = at + 0.001, index + 1 == steps, rng.random()
            events += [
                _step([child], index, [], f"Step {index} of {child}\n", at, last),
                _score([child], index, score, at),
            ]
            best = max(best, (score, [child])) if last else best
    return [*events, _answer(best[1], best[0], at)]


def beam(n: int, width: int, steps: int) -> list[dict[str, Any]]:
    """Of `n` children a round `width` go on."""
    rng, events, frontier, at = random.Random(0), [], [[]], 0.0
    for index in range(steps):
        children = [(path, [*path, child]) for path in frontier for child in range(n // len(frontier))]
        events += [
            {"type": "fork", "path": p, "children": [c for q, c in children if q == p], "at": at} for p in frontier
        ]
        scores = {}
        for parent, path in children:
            at, scores[tuple(path)] = at + 0.001, rng.random()
            events.append(_step(path, index, parent, f"Zoe: {40 + index} + 6 = {46 + index}\n", at, index + 1 == steps))
            events.append(_score(path, index, scores[tuple(path)], at))
        frontier = sorted((path for _, path in children), key=lambda path: -scores[tuple(path)])[:width]
        events += [{"type": "prune", "path": path, "at": at} for _, path in children if path not in frontier]
    return [*events, _answer(frontier[0], scores[tuple(frontier[0])], at)]


def trace(*searches: list[dict[str, Any]], question: str = "How many now?") -> dict[str, Any]:
    kept = [{"question": question, "strategy": "beam_search", "error": None, "events": events} for events in searches]
    return {"version": 1, "id": "an-id", "model": "tiny", "searches": kept}


def _step(path: list[int], index: int, parent: list[int], text: str, at: float, finished: bool) -> dict[str, Any]:
    place = {"type": "step", "path": path, "index": index, "parent": parent}
    return {**place, "text": text, "tokens": 9, "finished": finished, "at": at}


def _score(path: list[int], index: int, score: float, at: float) -> dict[str, Any]:
    return {"type": "score", "path": path, "index": index, "score": score, "uncertainty": 0.05, "at": at}


def _answer(path: list[int], score: float, at: float) -> dict[str, Any]:
    return {"type": "answer", "path": path, "answer": "48", "score": score, "end_reason": "completed", "at": at}
