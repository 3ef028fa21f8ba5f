"""Whether the rows of a disturbed run are all there, once, with the tokens of the undisturbed one and true scores."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.results import RowKey, read_results
from verifiers.contract import Read, Run
from verifiers.streaming import StreamingHost

KEY = ("problem_id", "strategy", "params", "seed")
_CLOSE = 1e-4  # of a score to that from scratch: batches of other sizes round otherwise
_BATCH = 64  # texts that are scored together


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a row says of one."""

    token_ids: tuple[int, ...]
    step_ends: tuple[int, ...]  # counts of its tokens
    scores: tuple[float | None, ...]
    unjudged: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, as far as a repeated run has it again."""

    key: RowKey
    error: str | None
    discarded_tokens: int  # of the policy: among them those that died with a replica
    reingested_tokens: int  # of the verifier: read again
    started_at: float  # seconds since 1970, as the next
    finished_at: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong with a row."""

    key: RowKey
    lost: bool  # else a score, or a token, is wrong
    what: str


def read_rows(folder: Path) -> list[Row]:
    problems, candidates = read_results(folder)
    by_key = {key: list(found.sort_values("candidate").itertuples()) for key, found in candidates.groupby(list(KEY))}
    return [_row(row, by_key.get(_key(row), [])) for row in problems.itertuples()]


def findings(
    rows: Sequence[Row],
    undisturbed: Mapping[RowKey, Row] | None,
    wanted: Collection[RowKey],
    truth: "Truth",
    swayed: Collection[RowKey] = (),
) -> Iterator[Finding]:
    """`undisturbed`: rows whose tokens these should have; None: the policy draws others when it is asked again.
    `swayed`: searches that may have gone another way, because what they choose by was refused."""
    counts = Counter(row.key for row in rows)
    for key in wanted:
        if counts[key] != 1:
            yield Finding(key=key, lost=True, what=f"{counts[key]} rows")
    for row in rows:
        if row.key not in wanted:
            yield Finding(key=row.key, lost=True, what="a row that nobody asked for")
            continue
        if row.error is not None:
            yield Finding(key=row.key, lost=True, what=row.error)
            continue
        if undisturbed is not None and row.key not in swayed and _tokens(row) != _tokens(undisturbed[row.key]):
            yield Finding(key=row.key, lost=False, what="other tokens than undisturbed")
        for number, candidate in enumerate(row.candidates):
            if wrong := truth.wrong(row.key[0], candidate):
                yield Finding(key=row.key, lost=False, what=f"candidate {number}: {wrong}")


class Truth:
    """Scores from scratch, in this process. Owner of those that were computed."""

    def __init__(self, host: StreamingHost, prompts: Mapping[str, tuple[int, ...]]) -> None:
        """`prompts`: token ids, by problem."""
        self._host = host
        self._prompts = prompts
        self._scores: dict[tuple[int, ...], tuple[float, ...]] = {}

    def compute(self, rows: Sequence[Row]) -> None:
        """For all candidates, together: one by one takes many times as long."""
        asked = {
            self._text(row.key[0], candidate): self._ends(row.key[0], candidate)
            for row in rows
            if row.key[0] in self._prompts
            for candidate in row.candidates
        }
        texts = [text for text in asked if text not in self._scores]
        for first in range(0, len(texts), _BATCH):
            batch = texts[first : first + _BATCH]
            runs = [Run(key=str(number), token_ids=text, boundaries=asked[text]) for number, text in enumerate(batch)]
            for text, answer in zip(batch, self._host.read(runs), strict=True):
                assert isinstance(answer, Read), "a text that the verifier can't read"
                self._scores[text] = tuple(score.mean for score in answer.scores)
            self._host.release([run.key for run in runs])

    def wrong(self, problem_id: str, candidate: Candidate) -> str | None:
        """Why its scores are wrong; None where they are not."""
        if candidate.unjudged is not None:
            return None
        wanted = self._scores[self._text(problem_id, candidate)]
        if len(candidate.scores) != len(wanted):
            return f"{len(candidate.scores)} scores for {len(wanted)} steps"
        for number, (score, true) in enumerate(zip(candidate.scores, wanted, strict=True)):
            if score is None:
                return f"step {number} has no score, and no reason for that"
            if abs(score - true) > _CLOSE:
                return f"step {number} has the score {score:.6f}, from scratch {true:.6f}"
        return None

    def _text(self, problem_id: str, candidate: Candidate) -> tuple[int, ...]:
        return (*self._prompts[problem_id], *candidate.token_ids)

    def _ends(self, problem_id: str, candidate: Candidate) -> tuple[int, ...]:
        return tuple(len(self._prompts[problem_id]) + end for end in candidate.step_ends)


def _row(row: Any, candidates: Sequence[Any]) -> Row:
    return Row(
        key=_key(row),
        error=None if row.status == "ok" else str(row.error),
        discarded_tokens=row.discarded_tokens,
        reingested_tokens=row.reingested_tokens,
        started_at=row.started_at.timestamp(),
        finished_at=row.finished_at.timestamp(),
        candidates=tuple(map(_candidate, candidates)),
    )


def _candidate(row: Any) -> Candidate:
    ends, end = [], 0
    for count in row.step_token_counts:
        end += int(count)
        ends.append(end)
    return Candidate(
        token_ids=tuple(map(int, row.token_ids)),
        step_ends=tuple(ends),
        scores=tuple(None if score is None or score != score else float(score) for score in row.step_scores),
        unjudged=row.unjudged if isinstance(row.unjudged, str) else None,
    )


def _tokens(row: Row) -> list[tuple[int, ...]]:
    return [candidate.token_ids for candidate in row.candidates]


def _key(row: Any) -> RowKey:
    return row.problem_id, row.strategy, row.params, int(row.seed)
