"""What waits for a reader is bounded, and text is never lost."""

from orchestrator.core.search_events import AnswerChosen, BudgetUsed, Dropped, Pruned, TextWritten
from orchestrator.serving.feed import Feed


def text(words: str) -> TextWritten:
    return TextWritten(at=0.0, path=(0,), text=words, thinking=False)


def pruned(child: int) -> Pruned:
    return Pruned(at=float(child), path=(child,))


def used(tokens: int) -> BudgetUsed:
    return BudgetUsed(at=0.0, policy_tokens=tokens, verifier_tokens=0, candidates=None)


def test_text_that_waits_is_one_piece() -> None:
    feed = Feed(progress=False)
    for char in "abc":
        feed(text(char))
    assert feed.take() == [text("abc")] and feed.take() == []


def test_progress_is_kept_only_for_who_asks() -> None:
    feed = Feed(progress=False)
    feed(pruned(1))
    assert feed.take() == []


def test_what_finds_no_room_is_dropped_and_counted_but_never_text_nor_the_answer() -> None:
    feed = Feed(progress=True, most_waiting=3)
    answer = AnswerChosen(at=9.0, path=(0,), answer="1", score=None, end_reason="completed")
    for child in range(10):
        feed(pruned(child))
        feed(text("x"))
    feed(answer)
    taken = feed.take()
    assert sum(isinstance(one, Pruned) for one in taken) == 2
    assert "".join(one.text for one in taken if isinstance(one, TextWritten)) == "x" * 10
    assert taken[-2:] == [answer, Dropped(at=9.0, count=8)]
    feed(pruned(11))
    assert feed.take() == [pruned(11)], "there is room again"


def test_of_costs_the_latest_waits() -> None:
    feed = Feed(progress=True)
    for tokens in range(5):
        feed(used(tokens))
    assert feed.take() == [used(4)]
