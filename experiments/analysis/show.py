"""`headrace show`: the search trees of one problem of a run, as a page that needs no network, or in the terminal."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.text import Text
from rich.tree import Tree

from orchestrator.core.errors import UserError
from orchestrator.results import read_results, read_trees
from orchestrator.results.files import write_output
from orchestrator.serving.page import standalone
from orchestrator.serving.traces import VERSION

_KEY = ["problem_id", "strategy", "params", "seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSearch:
    """One search of the problem: its row, its candidates, and the nodes of its tree in their order."""

    row: Any  # of the table of problems
    candidates: pd.DataFrame
    nodes: pd.DataFrame

    @property
    def name(self) -> str:
        return f"{self.row.label}, seed {self.row.seed}"


def kept_searches(folder: Path, problem_id: str, strategy: str | None, seed: int | None) -> list[KeptSearch]:
    """Those whose trees were kept. `strategy`: a name or a label. Raises UserError where there is none."""
    problems, candidates = read_results(folder)
    problems = problems[problems["problem_id"] == problem_id]
    if problems.empty:
        raise UserError(f"show: {folder} has no problem {problem_id!r}")
    labels = ", ".join(dict.fromkeys(problems["label"]))
    if strategy is not None:
        problems = problems[(problems["strategy"] == strategy) | (problems["label"] == strategy)]
    if seed is not None:
        problems = problems[problems["seed"] == seed]
    if problems.empty:
        raise UserError(f"show: no search of {problem_id!r} by that strategy and seed, its own are {labels}")
    nodes = read_trees(folder, problem_id=problem_id)
    found = []
    for row in problems.itertuples():
        own = nodes[_same(nodes, row)].sort_values("node")
        if len(own):
            found.append(KeptSearch(row=row, candidates=candidates[_same(candidates, row)], nodes=own))
    if not found:
        over = (problems["tree"] == "over_budget").any()
        why = "trees.max_bytes had no room for it" if over else "the run kept no trees"
        raise UserError(f"show: the tree of {problem_id!r} is not in {folder}: {why}")
    return found


def page_of(searches: list[KeptSearch], title: str) -> str:
    """The page that shows them, as one HTML file."""
    trace = {"version": VERSION, "id": None, "model": searches[0].row.policy_model}
    return standalone({**trace, "searches": [_search(one) for one in searches]}, title=title)


def page_file(folder: Path, problem_id: str) -> Path:
    """Where the page of a problem lies, whatever its id is."""
    plain = re.sub(r"[^\w.-]", "_", problem_id)[:100]
    return folder / "pages" / f"{plain}-{zlib.crc32(problem_id.encode()):08x}.html"


def write_page(searches: list[KeptSearch], title: str, path: Path) -> None:
    """Raises UserError where nothing can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, page_of(searches, title).encode())
    except OSError as error:
        raise UserError(f"show: can't write {path}: {error.strerror}") from None


def text_of(search: KeptSearch) -> Tree:
    """The tree for a terminal. Steps without a fork between them stand under each other."""
    children: dict[int, list[Any]] = {}
    for node in search.nodes.itertuples():
        if not pd.isna(node.parent):
            children.setdefault(int(node.parent), []).append(node)
    root = search.nodes.iloc[0]
    shown = Tree(Text.assemble((f"{search.name}\n", "bold"), root["text"].strip()), guide_style="dim")
    waiting = [(shown, child) for child in reversed(children.get(0, []))]  # a stack: trees may be deep
    while waiting:
        branch, node = waiting.pop()
        lines = [_line(node)]
        while len(following := children.get(node.node, [])) == 1:
            [node] = following
            lines.append(_line(node))
        below = branch.add(Text("\n").join(lines))
        waiting += [(below, child) for child in reversed(following)]
    answer = _known(search.row.answer) or "none"
    shown.add(Text.assemble("answer: ", (answer, "bold yellow")))
    return shown


def _same(frame: pd.DataFrame, row: Any) -> "pd.Series[bool]":
    same = frame["problem_id"] == row.problem_id
    for name in _KEY[1:]:
        same &= frame[name] == getattr(row, name)
    return same


def _known(value: Any) -> Any:
    """None for what the table does not hold."""
    return None if pd.isna(value) else value


def _line(node: Any) -> Text:
    score = "  –        " if pd.isna(node.score) else f"{node.score:.2f} ±{node.uncertainty:.2f} "
    state = "✗ " if node.pruned else "★ " if node.chosen else "✓ " if node.finished else "  "
    style = "dim" if node.pruned else "yellow" if node.chosen else ""
    return Text(f"{state}{score} {' '.join(node.text.split())}", style=style, no_wrap=True, overflow="ellipsis")


def _search(search: KeptSearch) -> dict[str, Any]:
    row = search.row
    return {
        "name": search.name,
        "question": search.nodes.iloc[0]["text"],
        "strategy": row.strategy,
        "seed": int(row.seed),
        "error": _known(row.error),
        "events": list(_events(search)),
    }


def _events(search: KeptSearch) -> Iterator[dict[str, Any]]:
    """What happened in the search, as far as its tree and its rows tell it."""
    nodes, row = search.nodes.iloc[1:], search.row
    ends = set(nodes["node"]) - set(nodes["parent"])
    chosen: list[int] = []
    at = 0.0
    for node in nodes.itertuples():
        path, index, at = [int(child) for child in node.path], int(node.step), node.at_s
        step = {"type": "step", "path": path, "index": index, "parent": path[:-1] if path else None}
        yield {**step, "at": at, "text": node.text, "tokens": int(node.num_tokens), "finished": bool(node.finished)}
        if not pd.isna(node.score):
            judged = {"type": "score", "path": path, "index": index, "score": node.score}
            yield {**judged, "at": at, "uncertainty": _known(node.uncertainty)}
        if node.pruned and node.node in ends:
            yield {"type": "prune", "path": path, "at": at}
        if node.chosen:
            chosen = path
    groups = search.candidates.dropna(subset=["answer_group"]).groupby("answer_group")["answer"].agg(["first", "size"])
    votes = [
        {"answer": first, "weight": int(size), "count": int(size)} for first, size in groups.itertuples(index=False)
    ]
    yield {"type": "vote", "answers": votes, "at": at}
    spent = {"policy_tokens": int(row.generated_tokens), "verifier_tokens": int(row.verifier_tokens)}
    yield {"type": "budget", **spent, "candidates": int(row.num_candidates), "at": row.wall_s}
    if _known(row.end_reason) is not None:
        ended = {"type": "answer", "path": chosen, "answer": _known(row.answer), "score": _known(row.score)}
        yield {**ended, "end_reason": row.end_reason, "at": row.wall_s}
