"""Labelled solutions that others published, as JSON Lines or Parquet, in Headrace's columns.

Their labels say of each step whether it is right; ours whether every step so far is: so from the first wrong step on
all labels are 0, and after a step that nobody rated they are unknown. The id of a problem is a hash of its text: all
solutions of a problem share it, and no split tears them apart.

To add a format: a function from a record to its solutions and a line in `FORMATS`.
"""

import difflib
import hashlib
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.data import records
from experiments.labelling.estimates import all_so_far
from orchestrator.core.errors import UserError
from verifiers.training.labelled import LabelledSolution


class Neutral(StrEnum):
    """What PRM800K's rating 0 counts as: a step that is not wrong and gets nowhere."""

    positive = "positive"  # every step so far is still correct: what a label says; most who train on the data, too
    negative = "negative"  # wanted are steps that help


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRules:
    """How records are read."""

    neutral: Neutral = Neutral.positive  # prm800k only
    alternatives: bool = True  # prm800k only: also each step that was rated and not chosen, after the steps before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record and where it stands."""

    values: dict[str, Any]
    place: str  # "FILE line 3"

    def get(self, *names: str, wanted: type | tuple[type, ...], of: Any = None) -> Any:
        """The value under a path of keys, of the record or of a part of it. Raises UserError."""
        value = self.values if of is None else of
        for name in names:
            if not isinstance(value, dict) or name not in value:
                raise self.error(f"{'.'.join(names)} is missing")
            value = value[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is int):
            kinds = wanted if isinstance(wanted, tuple) else (wanted,)
            names_of = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise self.error(f"{'.'.join(names)} must be {names_of}, got {_short(value)}")
        return value

    def error(self, message: str) -> UserError:
        return UserError(f"import: {self.place}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a file holds, in order. `skipped` says of each record that was left out what is wrong with it."""

    solutions: tuple[LabelledSolution, ...]
    skipped: tuple[str, ...] = ()


def read_solutions(
    format: str, path: Path, reading: ImportRules | None = None, *, max_skipped: float = 0.0
) -> Imported:
    """The labelled solutions of a file. Published files hold records that nobody can read: these are skipped, up to the
    share `max_skipped` of all records. Raises UserError that names file and line of the first where there are more."""
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"source.format: got {format!r}, wanted one of {', '.join(FORMATS)}{hint}")
    solutions: list[LabelledSolution] = []
    skipped: list[UserError] = []
    num_records = 0
    for num_records, record in enumerate(_records(path), start=1):  # noqa: B007 - the last is the number of records
        try:
            if isinstance(record, UserError):
                raise record
            solutions += list(FORMATS[format](record, reading or ImportRules()))  # all of a record or nothing
        except UserError as error:
            skipped.append(error)
    if len(skipped) > max_skipped * num_records:
        raise UserError(
            f"{skipped[0]}; {len(skipped)} of {num_records} can't be read, source.max_skipped is {max_skipped:g}"
        )
    return Imported(solutions=tuple(solutions), skipped=tuple(map(str, skipped)))


def _prm800k(record: Record, reading: ImportRules) -> Iterator[LabelledSolution]:
    """OpenAI's format, both phases. A record is a trunk of chosen steps, each with the completions rated beside it.

    Where nothing was chosen the labeller stopped: in phase 2 at the first error, which is the first completion and here
    the trunk's last step; in phase 1 perhaps in the middle (`give_up`), and then the solution is cut there. A step that
    a labeller wrote (`human_completion`) was to be right and counts as that. A flagged or unrated step is unknown.
    Records of a broken problem (`bad_problem`), and those that every labeller got for screening and quality control,
    are left out.
    """
    get = record.get
    if get("label", "finish_reason", wanted=str) == "bad_problem":
        return
    if any(record.values.get(f"is_{kind}_question") for kind in ("quality_control", "initial_screening")):
        return
    prompt = get("question", "problem", wanted=str)
    make = partial(_solution, "prm800k", prompt)
    trunk: list[tuple[str, float | None]] = []
    for step in get("label", "steps", wanted=list):
        completions = get("completions", wanted=(list, type(None)), of=step) or []
        rated = [_rated(record, completion, reading) for completion in completions]
        chosen = get("chosen_completion", wanted=(int, type(None)), of=step)
        human = get("human_completion", wanted=(dict, type(None)), of=step)
        if chosen is not None and not 0 <= chosen < len(rated):
            raise record.error(f"chosen_completion must be one of {len(rated)} completions, got {chosen}")
        index = chosen if chosen is not None or human is not None or not rated else 0
        if reading.alternatives:
            others = dict.fromkeys(other for at, other in enumerate(rated) if at != index and other[1] is not None)
            yield from (make([*trunk, other]) for other in others)
        if index is not None:
            trunk.append(rated[index])
        elif human is not None:
            trunk.append((get("text", wanted=str, of=human), 1.0))
        if chosen is None and human is None:
            break
    if trunk:
        yield make(trunk)


def _rated(record: Record, completion: Any, reading: ImportRules) -> tuple[str, float | None]:
    text = record.get("text", wanted=str, of=completion)
    rating = record.get("rating", wanted=(int, type(None)), of=completion)
    if completion.get("flagged") or rating is None:
        return text, None
    if rating not in (-1, 0, 1):
        raise record.error(f"rating must be -1, 0 or 1, got {rating}")
    return text, {-1: 0.0, 0: float(reading.neutral is Neutral.positive), 1: 1.0}[rating]


_MARK = "ки"  # after each step of `input`, where `label` has + or -
_FIRST_STEP = re.compile(r"\s*\bStep 1:")
_FIRST_STEP_IN_ANY_CASE = re.compile(r"\s*\bstep 1:", re.IGNORECASE)


def _math_shepherd(record: Record, reading: ImportRules) -> Iterator[LabelledSolution]:
    """Math-Shepherd's format (arXiv 2312.08935): `input` marks the end of each step, `label` has a sign for each mark.

    A + says that a rollout from there reached the right answer: so one after a - means that the rollouts before were
    unlucky, or a mistake was mended. Here, as everywhere, what follows the first - is 0.
    """
    given, label = record.get("input", wanted=str), record.get("label", wanted=str)
    *parts, rest = given.split(_MARK)
    first = (_FIRST_STEP.search(parts[0]) or _FIRST_STEP_IN_ANY_CASE.search(parts[0])) if parts else None
    if first is None or rest.strip():
        raise record.error(f'input must be a problem, " Step 1:" and steps that end with {_MARK}, got {_short(given)}')
    signs, at = [], 0
    for part in parts:
        sign = label[at + len(part) : at + len(part) + 1]
        if not label.startswith(part, at) or sign not in ("+", "-"):
            raise record.error(f"label must be input with + or - for each {_MARK}, got {_short(label[at:])}")
        signs.append(float(sign == "+"))
        at += len(part) + 1
    steps = [parts[0][first.start() :], *parts[1:]]
    prompt = parts[0][: first.start()].strip()
    yield _solution("math_shepherd", prompt, [(s.strip(), sign) for s, sign in zip(steps, signs, strict=True)])


def _stepwise(record: Record, reading: ImportRules) -> Iterator[LabelledSolution]:
    """TRL's stepwise supervision: `prompt`, `completions`, and `labels` that say of each step whether it is right."""
    prompt, completions = record.get("prompt", wanted=str), record.get("completions", wanted=list)
    labels = record.get("labels", wanted=list)
    if len(labels) != len(completions) or not completions:
        raise record.error(f"wanted a label for each of at least one step, got {len(completions)} and {len(labels)}")
    if strange := [text for text in completions if not isinstance(text, str)]:
        raise record.error(f"completions must be texts, got {_short(strange[0])}")
    if strange := [x for x in labels if x is not None and not (isinstance(x, bool | int | float) and 0 <= x <= 1)]:
        raise record.error(f"labels must be true, false, null or in 0..1, got {_short(strange[0])}")
    numbers = [None if label is None else float(label) for label in labels]
    yield _solution("stepwise", prompt, list(zip(completions, numbers, strict=True)))


FORMATS: dict[str, Callable[[Record, ImportRules], Iterator[LabelledSolution]]] = {
    "prm800k": _prm800k,
    "math_shepherd": _math_shepherd,
    "stepwise": _stepwise,
}


def _solution(source: str, prompt: str, steps: list[tuple[str, float | None]]) -> LabelledSolution:
    """`steps` are (text, whether that step is right)."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()
    return LabelledSolution(
        problem_id=digest,
        source=source,
        prompt=prompt,
        completions=tuple(text for text, _ in steps),
        labels=all_so_far(label for _, label in steps),
    )


def _records(path: Path) -> Iterator[Record | UserError]:
    """Of JSON Lines, or of Parquet where the name says so; an error in the place of a line that is no record."""
    try:
        if path.suffix == ".parquet":
            rows = (row for batch in pq.ParquetFile(path).iter_batches() for row in batch.to_pylist())
            yield from (Record(values=row, place=f"{path} row {number}") for number, row in enumerate(rows, start=1))
            return
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.removeprefix(BOM_UTF8).strip():
                    yield _parsed(line.removeprefix(BOM_UTF8), f"{path} line {number}")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"import: can't read {path}: {error}") from None


def _parsed(line: bytes, place: str) -> Record | UserError:
    try:
        return Record(values=records.parse(line), place=place)
    except ValueError as error:
        return UserError(f"import: {place} {error}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
