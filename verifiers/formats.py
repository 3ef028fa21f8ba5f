"""How published reward models want a solution written, where they are read, and what is read there. No torch.

A format is a pure function from a problem and its steps to a `Rendering`. Sources: the model cards and usage code of
Qwen2.5-Math-PRM (arXiv 2501.07301), Math-Shepherd (arXiv 2312.08935), Skywork-o1-Open-PRM, RLHFlow's PRMs
(arXiv 2405.07863) and TRL's PRMTrainer. White space around a step is its delimiter, in place of which each format has
its own.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.nouns import Message, Problem

Span = tuple[int, int]  # start and end, in characters
Chat = Callable[[Sequence[Message]], str]  # a checkpoint's chat template; raises ValueError where it refuses


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """A solution as a verifier reads it. Spans are in the joined pieces."""

    pieces: tuple[str, ...]  # each is tokenised on its own
    marks: tuple[Span, ...]  # of each step: the score is read at the last token of the mark
    quoted: tuple[Span, ...]  # the problem's text and the policy's: what looks like a special token there is none
    bos: bool = False  # the tokenizer's beginning-of-sequence token comes first, if it has one
    whole_marks: bool = True  # each mark is a single token

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way to judge."""

    render: Callable[[Problem, Sequence[str], Chat], Rendering]
    belief: Callable[[Sequence[float]], float]  # P(correct) from the logits at a mark; nan where one is not finite
    words: tuple[str, ...] = ()  # texts that make two tokens, whose logits are read; (): the checkpoint has a head
    num_logits: int = 2  # that are read at a mark
    before_mark: bool = False  # read where the mark is predicted, at the token before it
    scores_steps: bool = True  # False: one mark, at the end


def format_of(name: str, *, separator: str = "\n") -> Format:
    """The format of a registered verifier; `separator` is of two_class_prm alone."""
    if name == "two_class_prm":
        return replace(_TWO_CLASS_PRM, render=lambda problem, steps, chat: _separated(problem, steps, separator))
    return FORMATS[name]


# P(correct) from logits


def _sigmoid(x: float) -> float:
    if not math.isfinite(x):
        return math.nan  # an overflow says nothing, not even 0 or 1
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _first(logits: Sequence[float]) -> float:
    """Softmax over two: the first is `correct`."""
    return _sigmoid(logits[0] - logits[1])


def _second(logits: Sequence[float]) -> float:
    """Softmax over two: the second is `correct`."""
    return _sigmoid(logits[1] - logits[0])


def _only(logits: Sequence[float]) -> float:
    return _sigmoid(logits[0])


# renderings


@dataclass(slots=True)
class _Writer:
    """Puts a rendering together and says what lies where."""

    pieces: list[str] = field(default_factory=lambda: [""])
    length: int = 0

    def add(self, text: str) -> Span:
        """Goes on with the last piece."""
        self.pieces[-1] += text
        self.length += len(text)
        return self.length - len(text), self.length

    def begin(self, text: str) -> Span:
        """Begins a new piece."""
        self.pieces.append("")
        return self.add(text)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


_SLOT = re.compile("\ue000(\\d+)\ue001")  # private characters around the number of the message that belongs there


def _in_chat(messages: Sequence[Message], chat: Chat) -> tuple[str, list[int]]:
    """The messages through a chat template, and where the content of each begins.

    Raises ValueError for a template that changes contents, leaves some out or repeats them: marks could not be found.
    """
    frame = chat([replace(message, content=f"\ue000{i}\ue001") for i, message in enumerate(messages)])
    text, starts, end = _Writer(), list[tuple[int, int]](), 0
    for slot in _SLOT.finditer(frame):
        text.add(frame[end : slot.start()])
        index, end = int(slot[1]), slot.end()
        starts.append((index, text.add(messages[index].content)[0]))
    text.add(frame[end:])
    starts.sort()
    if [index for index, _ in starts] != list(range(len(messages))) or text.text != chat(messages):
        raise ValueError("the verifier's chat template changes the text of a message, so that marks can't be placed")
    return text.text, [start for _, start in starts]


def _turns(problem: Problem, *, system: bool) -> list[Message]:
    """The problem's messages. They are stripped, because some chat templates do that."""
    turns = [m for m in problem.messages if system or m.role != "system"]
    return [replace(message, content=message.content.strip()) for message in turns]


def _question(problem: Problem) -> str:
    return "\n\n".join(message.content for message in _turns(problem, system=False))


def _shifted(spans: Sequence[Span], by: int) -> tuple[Span, ...]:
    return tuple((start + by, end + by) for start, end in spans)


def _qwen(problem: Problem, steps: Sequence[str], chat: Chat) -> Rendering:
    """A chat under a system prompt of its own, `<extra_0>` after each step; the second of two classes is `correct`."""
    answer = _Writer()
    quoted, marks = [], []
    for step in steps:
        quoted.append(answer.add(step.strip()))
        marks.append(answer.add("<extra_0>"))
    system = Message(role="system", content="Please reason step by step, and put your final answer within \\boxed{}.")
    turns = _turns(problem, system=False)
    text, starts = _in_chat([system, *turns, Message(role="assistant", content=answer.text)], chat)
    asked = [(start, start + len(turn.content)) for start, turn in zip(starts[1:], turns, strict=False)]
    return Rendering(pieces=(text,), marks=_shifted(marks, starts[-1]), quoted=(*asked, *_shifted(quoted, starts[-1])))


def _math_shepherd(problem: Problem, steps: Sequence[str], chat: Chat) -> Rendering:
    """Question and steps as plain text, each step ended by ` ки`, where the logits of `+` and `-` are compared."""
    text = _Writer()
    quoted, marks = [text.add(_question(problem))], []
    for number, step in enumerate(steps):
        text.add("\n" if number else " ")
        quoted.append(text.add(step.strip()))
        text.add(" ")
        marks.append(text.add("ки"))
    return Rendering(pieces=(text.text,), marks=tuple(marks), quoted=tuple(quoted), bos=True)


def _skywork(problem: Problem, steps: Sequence[str], chat: Chat) -> Rendering:
    """Each line is tokenised on its own and ended by a newline, where the sigmoid of a value head is read.

    To the model each line is a step: of a step of several lines the last one counts.
    """
    text = _Writer()
    quoted, marks = [text.add(_question(problem))], []
    text.add("\n")
    for step in steps:
        for line in [line for line in step.split("\n") if line.strip()] or [""]:
            quoted.append(text.begin(line))
            newline = text.begin("\n")
        marks.append(newline)
    return Rendering(pieces=tuple(text.pieces), marks=tuple(marks), quoted=tuple(quoted), bos=True)


def _separated(problem: Problem, steps: Sequence[str], separator: str) -> Rendering:
    """Question and steps are tokenised one by one, each step ended by the separator's tokens, the last of which is
    classified; the second of two classes is `correct`."""
    text = _Writer()
    quoted, marks = [text.add(_question(problem))], []
    for step in steps:
        quoted.append(text.begin(step.strip()))
        marks.append(text.begin(separator))
    return Rendering(pieces=tuple(text.pieces), marks=tuple(marks), quoted=tuple(quoted), bos=True, whole_marks=False)


def _rlhflow(problem: Problem, steps: Sequence[str], chat: Chat) -> Rendering:
    """A chat: each step is the user's turn (the question goes before the first) and `+` the assistant's. Where a `+`
    is predicted, its logit and that of `-` are compared."""
    messages = []
    for number, step in enumerate(steps):
        asked = f"{_question(problem)} {step.strip()}" if number == 0 else step
        messages += [Message(role="user", content=asked.strip()), Message(role="assistant", content="+")]
    text, starts = _in_chat(messages, chat)
    return Rendering(
        pieces=(text,),
        marks=tuple((start, start + 1) for start in starts[1::2]),
        quoted=tuple(
            (start, start + len(turn.content)) for start, turn in zip(starts[::2], messages[::2], strict=True)
        ),
    )


def _whole(problem: Problem, steps: Sequence[str], chat: Chat) -> Rendering:
    """The conversation with the whole solution as its last turn; a scalar is read at the very last token."""
    messages = [*_turns(problem, system=True), Message(role="assistant", content="".join(steps).strip())]
    text, starts = _in_chat(messages, chat)
    quoted = tuple((start, start + len(turn.content)) for start, turn in zip(starts, messages, strict=True))
    return Rendering(pieces=(text,), marks=((0, len(text)),), quoted=quoted, whole_marks=False)


_TWO_CLASS_PRM = Format(render=lambda problem, steps, chat: _separated(problem, steps, "\n"), belief=_second)

FORMATS = {
    "qwen_prm": Format(render=_qwen, belief=_second),
    "math_shepherd": Format(render=_math_shepherd, belief=_first, words=("+ -",)),
    "skywork_prm": Format(render=_skywork, belief=_only, num_logits=1),
    "rlhflow_prm": Format(render=_rlhflow, belief=_first, words=("+", "-"), before_mark=True),
    "two_class_prm": _TWO_CLASS_PRM,
    "orm": Format(render=_whole, belief=_only, num_logits=1, scores_steps=False),
}
