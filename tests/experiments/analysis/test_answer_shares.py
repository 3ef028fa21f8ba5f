import io
from types import SimpleNamespace
from typing import Any

import pandas as pd
from rich.console import Console

from experiments.analysis.answer_shares import Shares, Watch, shares_of
from experiments.progress import progress_bar, row_watcher


def shares(*candidates: tuple[str | None, str, str | None]) -> Shares:
    found = Shares()
    for answer, status, undecided in candidates:
        found = found.with_one(answer=answer, status=status, undecided=undecided, text="so it is\n\n  about 18 eggs.")
    return found


GOOD = ("18", "finished", None)
SILENT = (None, "finished", None)
CUT = (None, "truncated", None)
HARD = ("x", "finished", "out of time")


def test_shares_are_of_all_candidates() -> None:
    found = shares(GOOD, SILENT, CUT, HARD)
    assert found.shown() == {"no answer %": 0.5, "cut off %": 0.25, "undecided %": 0.25}
    assert Shares().shown() == {"no answer %": 0.0, "cut off %": 0.0, "undecided %": 0.0}


def test_a_small_share_is_no_warning() -> None:
    assert shares(*[GOOD] * 8, SILENT, CUT).warnings() == []


def test_answers_that_are_not_found_name_the_setting_and_two_endings() -> None:
    [warning] = shares(*[GOOD] * 2, *[SILENT] * 6).warnings()
    assert warning.startswith("75% of 8 candidates ended without an answer that could be found, and count as wrong")
    assert "set data.answer" in warning
    assert warning.endswith("Two endings: «...so it is about 18 eggs.» and «...so it is about 18 eggs.»")


def test_what_was_cut_off_asks_for_more_tokens_and_not_for_another_rule() -> None:
    [warning] = shares(*[GOOD] * 2, *[CUT] * 6).warnings()
    assert warning.startswith("75% of 8 candidates were cut off before they ended, 6 of them without an answer")
    assert "raise sampling.max_tokens" in warning


def test_what_is_undecided_says_why() -> None:
    [warning] = shares(*[GOOD] * 2, *[HARD] * 2).warnings()
    assert "50% of 4 candidates could not be compared with the reference" in warning and "out of time" in warning


def row(candidate: tuple[str | None, str, str | None]) -> Any:
    answer, status, undecided = candidate
    return SimpleNamespace(answer=answer, status=status, undecided=undecided, text="18 eggs")


def test_a_run_that_goes_on_is_warned_once_and_not_before_it_is_sure() -> None:
    watch = Watch()
    said = [watch.warnings(**vars(row(SILENT))) for _ in range(80)]
    assert [len(new) for new in said] == [0] * 39 + [1] + [0] * 40
    assert "of 40 candidates ended without an answer" in said[39][0]


def test_each_warning_of_a_run_that_goes_on_is_said_once_whatever_comes_first() -> None:
    watch = Watch()
    said = [new for one in [SILENT] * 60 + [CUT] * 60 for new in watch.warnings(**vars(row(one)))]
    assert [("without an answer that could be" in one, "were cut off" in one) for one in said] == [
        (True, False),
        (False, True),
    ]


def test_an_extraction_that_matches_nothing_is_said_within_the_first_50_candidates_while_the_run_goes_on() -> None:
    console = Console(file=io.StringIO(), width=200)
    with progress_bar(console) as progress:
        on_row = row_watcher(progress, progress.add_task("running", total=1000, errors=""))
        for _ in range(49):
            on_row(SimpleNamespace(status="ok"), [row(SILENT)])
        said = console.file.getvalue()
        for _ in range(200):
            on_row(SimpleNamespace(status="ok"), [row(SILENT)])
    assert "100% of 40 candidates ended without an answer that could be found" in said and "set data.answer" in said
    assert console.file.getvalue().count("without an answer that could be found") == 1


def test_rows_of_a_folder_have_the_same_shares() -> None:
    frame = pd.DataFrame([vars(row(candidate)) for candidate in (GOOD, SILENT, CUT, HARD)])
    assert shares_of(frame).shown() == shares(GOOD, SILENT, CUT, HARD).shown()
