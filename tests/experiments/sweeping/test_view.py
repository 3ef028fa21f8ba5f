"""What the terminal shows while a sweep runs, at a width and height."""

import io
from dataclasses import replace

from rich.console import Console

from experiments.sweeping.view import SweepView, Work
from orchestrator.core.ledger import Budget
from tests.experiments.synthetic import problem_row, sample_rows

BEAM, BEST = ("beam_search", "b"), ("best_of_n", "n")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def work(name, *, total=20, done=0, left=None, budget=None):
    left = {BEST: 10, BEAM: 10} if left is None else left
    sizes = {BEST: 8, BEAM: 4}
    return Work(name=name, shown=name, total=total, done=done, left=left, sizes=sizes, budget=budget or Budget())


def view(works, clock, width=80, height=30):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    return SweepView(console, works, clock), console


def shown(made, console):
    with console.capture() as capture:
        console.print(made.render())
    return capture.get()


def row(key, tokens, **changes):
    made = problem_row("p0", key[0], 8, 0, correct=True, num_candidates=8, generated_tokens=tokens, **changes)
    return replace(made, params=key[1])


def line_of(text, name):
    [line] = [line for line in text.splitlines() if line.strip().startswith(name)]
    return line.split()


def test_a_cell_shows_progress_speed_time_left_budget_answers_and_errors():
    clock = Clock()
    made, console = view([work("a", budget=Budget(policy_tokens=10_000)), work("b")], clock)
    made.begin("a", replaying=False)
    made.stage("starting the policy")
    clock.now = 100.0  # the start of the models is no time of the cell
    made.stage("running")
    candidates = [replace(one, answer=None) if i < 2 else one for i, one in enumerate(sample_rows("p0", 8))]
    for _ in range(4):
        made.row(row(BEST, 800), candidates)
    made.row(row(BEST, 800, status="error", error="no"), [])
    clock.now = 110.0
    text = shown(made, console)
    # 5 of 20 searches, 4,000 tokens in 10 s; left: 5 x 800 and, at 100 tokens a candidate, 10 x 4 x 100 tokens
    assert line_of(text, "a") == ["a", "running", "5/20", "400", "20", "s", "40%", "25%", "1"]
    # b is all to do: 10 x 800 + 10 x 400 tokens at the same speed
    assert line_of(text, "b") == ["b", "waiting", "0/20", "-", "30", "s", "-", "-", "0"]
    assert "running · 0/2 cells · 5/40 searches · 400 tokens/s · 50 s left" in text


def test_nothing_is_made_up_before_the_first_row():
    made, console = view([work("a")], Clock())
    text = shown(made, console)
    assert line_of(text, "a") == ["a", "waiting", "0/20", "-", "?", "-", "0"]
    assert "starting · 0/1 cells · 0/20 searches\n" in text


def test_a_cell_that_waits_for_others_samples_is_not_done_before_it_has_them():
    made, console = view([work("a", left={BEST: 10}), work("b", total=1, done=1, left={})], Clock())
    assert line_of(shown(made, console), "b")[1] == "done"
    made.begin("a", replaying=False)
    made.stage("running")
    for _ in range(10):
        made.row(row(BEST, 10), [])
    made.end("a", None)
    assert line_of(shown(made, console), "a")[1:3] == ["waiting", "10/20"]
    made.begin("a", replaying=True)
    for _ in range(10):
        made.row(row(BEST, 10), [])
    made.end("a", None)
    assert line_of(shown(made, console), "a")[1:3] == ["done", "20/20"]


def test_a_failed_cell_says_why_and_does_not_hold_the_time_left():
    clock = Clock()
    made, console = view([work("a"), work("b")], clock)
    made.begin("a", replaying=False)
    made.end("a", "the policy did not start")
    assert "failed: a: the policy did not start" in console.file.getvalue()
    text = shown(made, console)
    assert line_of(text, "a")[1] == "failed" and "1 failed" in text


def test_many_cells_fit_the_terminal_with_the_running_one_among_them():
    made, console = view([work(f"cell{i:02}", done=20 * (i < 30), left={}) for i in range(48)], Clock(), height=24)
    made.begin("cell30", replaying=False)
    text = shown(made, console)
    assert len(text.splitlines()) <= 24
    assert "cell28" in text and "cell30" in text and "cell00" not in text and "cell47" not in text
    assert "and 28 before and 4 after these" in text
    assert "30/48 cells" in text


def test_long_names_leave_the_numbers_whole_at_80_columns_and_at_140():
    name = "DeepSeek-R1-Distill-Qwen-1.5B · Qwen2.5-Math-PRM-7B · 0.6 · math500 · 0-1-2-3"
    for width in (80, 140):
        made, console = view([work(name, total=123_456, left={})], Clock(), width=width)
        text = shown(made, console)
        assert max(map(len, text.splitlines())) <= width and "0/123,456" in text


def test_without_a_terminal_each_change_is_a_line():
    made, console = view([work("a")], Clock())
    with made:
        made.begin("a", replaying=False)
        made.stage("running")
        made.row(row(BEST, 10), [replace(one, answer=None) for one in sample_rows("p0", 8)])
        made.end("a", None)
    assert console.file.getvalue().splitlines() == [
        "running: a", "  running", "  waiting: 1 of 20 searches, 100% without an answer",
    ]  # fmt: skip
