"""Facts about what is found wrong with rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from experiments.bench.faults.rows import Candidate, Finding, Row, Truth, findings
from orchestrator.core.nouns import Score
from verifiers.contract import Answer, Read, Run

KEY = ("p", "best_of_n", "{}", 0)


class Lengths:
    """A verifier host: a score is a hundredth of the tokens so far."""

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        return [
            Read(scores=tuple(Score(mean=end / 100) for end in run.boundaries), tokens_read=0, flops=0.0)
            for run in runs
        ]

    def release(self, keys: Sequence[str]) -> None:
        pass


CANDIDATE = Candidate(token_ids=(1, 2, 3), step_ends=(2, 3), scores=(0.04, 0.05), unjudged=None)
ROW = Row(
    key=KEY,
    error=None,
    discarded_tokens=0,
    reingested_tokens=0,
    started_at=1.0,
    finished_at=3.0,
    candidates=(CANDIDATE,),
)


def found(*rows: Row, undisturbed: bool = True, swayed: bool = False) -> list[Finding]:
    host: Any = Lengths()
    truth = Truth(host, {"p": (8, 9)})
    truth.compute(rows)
    return list(findings(rows, {KEY: ROW} if undisturbed else None, {KEY}, truth, {KEY} if swayed else ()))


def of(**changes: Any) -> Row:
    return replace(ROW, candidates=(replace(CANDIDATE, **changes),))


def test_nothing_is_wrong_with_the_row_of_an_undisturbed_run() -> None:
    assert found(ROW) == []


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([], "0 rows"),
        ([ROW, ROW], "2 rows"),
        ([ROW, replace(ROW, key=("q", *KEY[1:]))], "a row that nobody asked for"),
        ([replace(ROW, error="no answer after 5 s", candidates=())], "no answer after 5 s"),
    ],
)
def test_a_row_that_is_missing_twice_there_or_an_error_is_lost(rows: list[Row], what: str) -> None:
    [finding] = found(*rows)
    assert finding.lost and finding.what == what


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (of(scores=(0.04, 0.06)), "candidate 0: step 1 has the score 0.060000, from scratch 0.050000"),
        (of(scores=(0.0, 0.05)), "candidate 0: step 0 has the score 0.000000, from scratch 0.040000"),
        (of(scores=(0.04, None)), "candidate 0: step 1 has no score, and no reason for that"),
        (of(token_ids=(1, 2, 4)), "other tokens than undisturbed"),
    ],
)
def test_a_score_that_is_not_that_from_scratch_and_other_tokens_are_wrong(row: Row, what: str) -> None:
    [finding] = found(row)
    assert not finding.lost and finding.what == what


def test_a_candidate_without_scores_and_with_the_reason_is_not_wrong() -> None:
    assert found(of(scores=(None, None), unjudged="the score is not a finite number")) == []


def test_tokens_may_be_others_where_a_verdict_was_refused_and_scores_may_not() -> None:
    assert found(of(token_ids=(1, 2, 4)), swayed=True) == []
    [finding] = found(of(token_ids=(1, 2, 4), scores=(0.04, 0.06)), swayed=True)
    assert "from scratch" in finding.what


def test_tokens_may_be_others_where_the_policy_draws_again() -> None:
    assert found(of(token_ids=(1, 2, 4)), undisturbed=False) == []
