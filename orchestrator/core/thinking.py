"""Where a model's thinking begins and ends in what it writes."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingMarkers:
    """The texts around the thinking, such as `<think>` and `</think>`."""

    start: str
    end: str
    forced_end: str | None = None  # what ends it where it is cut short; None: `end`

    @property
    def ending(self) -> str:
        """What to write where the thinking is to end."""
        return self.end if self.forced_end is None else self.forced_end


class Phase(StrEnum):
    """Of a reply. Thinking comes first, once, or not at all: a marker in the answer is text like any."""

    BEFORE = "before"  # nothing but white space was written
    THINKING = "thinking"
    ANSWER = "answer"


def prompted_phase(prompt: str, markers: ThinkingMarkers) -> Phase:
    """With which phase a reply begins: some chat templates begin the thinking, or end it at once."""
    end = prompt.rstrip()
    if end.endswith(markers.end):
        return Phase.ANSWER
    return Phase.THINKING if end.endswith(markers.start) else Phase.BEFORE


def phase_after(text: str, phase: Phase, markers: ThinkingMarkers) -> Phase:
    """The phase after `text`, all that was written since the reply was in `phase`."""
    if phase is Phase.BEFORE:
        begun = text.lstrip()
        if begun.startswith(markers.start):
            phase, text = Phase.THINKING, begun.removeprefix(markers.start)
        elif markers.start.startswith(begun):  # nothing, or the begin of the marker
            return Phase.BEFORE
        else:
            return Phase.ANSWER
    if phase is Phase.THINKING and markers.end in text:
        return Phase.ANSWER
    return phase
