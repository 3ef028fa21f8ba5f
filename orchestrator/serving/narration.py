"""What happens in a search, in words, for clients that show a summary of the reasoning."""

from collections.abc import Iterable

from orchestrator.core.search_events import (
    AnswerChosen,
    Dropped,
    Forked,
    Pruned,
    SearchEvent,
    StepScored,
    StepWritten,
    Voted,
)

_MOST_CHARS = 200  # of a step


def in_words(search_events: Iterable[SearchEvent]) -> str:
    """A line for each; none for what has no place in a summary."""
    return "".join(f"{line}\n" for event in search_events if (line := _line(event)))


def _line(event: SearchEvent) -> str:
    match event:
        case StepWritten(path=path, text=text):
            shown = " ".join(text.split())
            return f"[{_name(path)}] {shown if len(shown) <= _MOST_CHARS else shown[:_MOST_CHARS] + '…'}"
        case StepScored(path=path, score=score, uncertainty=uncertainty):
            return f"[{_name(path)}] score {score:.2f}" + (f" ± {uncertainty:.2f}" if uncertainty else "")
        case Forked(path=path, children=children) if len(children) > 1:
            return f"[{_name(path)}] goes on in {len(children)} ways"
        case Pruned(path=path):
            return f"[{_name(path)}] given up"
        case Voted(answers=answers):
            return "votes: " + (", ".join(f"{one.answer} ({one.weight:g})" for one in answers) or "none")
        case AnswerChosen(path=path, answer=answer):
            return f"[{_name(path)}] chosen" + ("" if answer is None else f", answer {answer}")
        case Dropped(count=count):
            return f"({count} events are left out)"
    return ""


def _name(path: tuple[int, ...]) -> str:
    """Of a trajectory: which child it is at each fork, from 1 on."""
    return ".".join(str(child + 1) for child in path) or "prompt"
