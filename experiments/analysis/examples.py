"""The problems of a run that went worst and best, with what was written on them: texts, scores and search trees."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.analysis.frames import graded
from orchestrator.results import read_trees

NUM_EXAMPLES = 5  # of each kind
LONGEST_TEXT = 4000  # characters of a candidate
MOST_NODES = 300  # of a tree
_NUM_CANDIDATES = 4  # of each search
_KEY = ["strategy", "params", "seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A whole solution. `correct`: None where it was not decided; `left_out`: characters that the page does without."""

    number: int
    chosen: bool
    correct: bool | None
    answer: str | None
    score: float | None
    cut_off: bool
    text: str
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStep:
    """A node of a search tree."""

    text: str
    score: float | None
    state: str  # chosen, pruned, finished or open


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Steps without a fork between them, and what follows the last of them."""

    steps: Sequence[TreeStep]
    children: Sequence["Branch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search of a problem. `tree`: None where none was kept or it is too large; `tree_note` says which."""

    name: str
    correct: bool | None
    answer: str | None
    error: str | None
    tokens: int
    candidates: Sequence[Candidate]
    num_candidates: int
    num_right: int
    tree: Branch | None
    tree_note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A problem. `question` is known where a tree was kept."""

    problem: str
    question: str | None
    num_right: int  # searches
    num_graded: int
    searches: Sequence[Search]


def worst_and_best(
    folder: Path, problems: pd.DataFrame, candidates: pd.DataFrame
) -> tuple[list[Example], list[Example]]:
    """The problems that fewest and most searches of the run solve, at most `NUM_EXAMPLES` each and none in both.

    Of equals, the worst have the highest score for a wrong answer (sure and wrong), and the best the fewest right
    candidates (found among many wrong ones). Problems without a graded row are in neither. Raises UserError.
    """
    counted = graded(problems).assign(correct=lambda rows: rows["correct"].astype(float))
    by_problem = counted.groupby("problem_id")
    decided = candidates[candidates["correct"].notna()]
    ranks = pd.DataFrame(
        {
            "accuracy": by_problem["correct"].mean(),
            "sure": counted[counted["correct"] == 0].groupby("problem_id")["score"].max(),
            "right": decided["correct"].astype(float).groupby(decided["problem_id"]).mean(),
        }
    )
    ranks = ranks[ranks["accuracy"].notna()].rename_axis("problem_id").reset_index()
    worst = ranks.sort_values(["accuracy", "sure", "problem_id"], ascending=[True, False, True])
    best = ranks.sort_values(["accuracy", "right", "problem_id"], ascending=[False, True, True])
    size = min(NUM_EXAMPLES, (len(ranks) + 1) // 2)
    low = [str(name) for name in worst[worst["accuracy"] < 1]["problem_id"].head(size)]
    high = [str(name) for name in best[best["accuracy"] > 0]["problem_id"] if name not in low][:size]
    nodes = read_trees(folder, problem_id={*low, *high})
    found = {
        name: _example(*(frame[frame["problem_id"] == name] for frame in (problems, candidates, nodes)))
        for name in (*low, *high)
    }
    return [found[name] for name in low], [found[name] for name in high]


def _example(problems: pd.DataFrame, candidates: pd.DataFrame, nodes: pd.DataFrame) -> Example:
    counted = graded(problems)
    roots = nodes[nodes["node"] == 0]
    return Example(
        problem=str(problems["problem_id"].iloc[0]),
        question=str(roots["text"].iloc[0]) if len(roots) else None,
        num_right=int(counted["correct"].sum()),
        num_graded=len(counted),
        searches=[_search(row, _of(candidates, row), _of(nodes, row)) for row in problems.itertuples()],
    )


def _of(frame: pd.DataFrame, row: Any) -> pd.DataFrame:
    same = pd.Series(True, index=frame.index)
    for name in _KEY:
        same &= frame[name] == getattr(row, name)
    return frame[same]


def _search(row: Any, candidates: pd.DataFrame, nodes: pd.DataFrame) -> Search:
    tree, note = None, ""
    if len(nodes) > MOST_NODES:
        note = f"Its tree has {len(nodes):,} steps, more than this page takes"
    elif len(nodes):
        tree = tree_of(nodes)
    else:
        note = "Its tree had no room (trees.max_bytes)" if row.tree == "over_budget" else "No tree was kept"
    return Search(
        name=f"{row.label}, seed {row.seed}",
        correct=None if pd.isna(row.correct) else bool(row.correct),
        answer=_known(row.answer),
        error=_known(row.error),
        tokens=int(row.generated_tokens),
        candidates=[_candidate(one) for one in _telling(candidates).itertuples()],
        num_candidates=len(candidates),
        num_right=int(candidates["correct"].sum()),
        tree=tree,
        tree_note=note,
    )


def _telling(candidates: pd.DataFrame) -> pd.DataFrame:
    """The chosen one, then right and wrong ones by turns, those with the highest score first."""
    ranked = candidates.assign(
        wrong=(~candidates["correct"].astype("boolean")).fillna(True),
        unchosen=~candidates["chosen"],
        score=candidates["aggregate_score"].fillna(-1e9),
    ).sort_values(["unchosen", "score", "candidate"], ascending=[True, False, True])
    ranked["turn"] = ranked.groupby(["unchosen", "wrong"]).cumcount()
    return ranked.sort_values(["unchosen", "turn", "wrong", "candidate"]).head(_NUM_CANDIDATES)


def _candidate(row: Any) -> Candidate:
    return Candidate(
        number=int(row.candidate),
        chosen=bool(row.chosen),
        correct=None if pd.isna(row.correct) else bool(row.correct),
        answer=_known(row.answer),
        score=_known(row.aggregate_score),
        cut_off=row.status == "truncated",
        text=row.text[:LONGEST_TEXT],
        left_out=max(0, len(row.text) - LONGEST_TEXT),
    )


def tree_of(nodes: pd.DataFrame) -> Branch:
    """The nodes of one search as branches, the question left out. Children before parents, so that depth costs no
    recursion."""
    nodes = nodes.sort_values("node")
    below: dict[int, list[Branch]] = {}
    for node in reversed(list(nodes.iloc[1:].itertuples())):
        following = below.pop(int(node.node), [])[::-1]
        state = "pruned" if node.pruned else "chosen" if node.chosen else "finished" if node.finished else "open"
        step = TreeStep(text=node.text, score=_known(node.score), state=state)
        if len(following) == 1:
            branch = Branch(steps=[step, *following[0].steps], children=following[0].children)
        else:
            branch = Branch(steps=[step], children=following)
        below.setdefault(int(node.parent), []).append(branch)
    return Branch(steps=[], children=below.get(0, [])[::-1])


def _known(value: Any) -> Any:
    """None for what the table does not hold."""
    return None if pd.isna(value) else value
