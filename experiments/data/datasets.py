"""Data sets: problems for the strategies, reference answers for the grader, kept apart from the start.

The fields that `metadata_fields` names go along with the problem, where verifiers and strategies can see them. A rule
verifier compares with such a field. If it is the field of the reference answer, the verifier is an oracle.

To add one: a function from `DataConfig` to examples and a line in `DATASETS`.
"""

import difflib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from experiments.data import records
from experiments.tinymath import task
from orchestrator.answers import KINDS
from orchestrator.core.answers import AnswerFormat, reference_answer
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Problem


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which problems. `path` and the fields are for JSON Lines files."""

    name: str = MISSING  # a key of `DATASETS`
    split: str = "test"  # tinymath only
    num_problems: int | None = None  # None: all (tinymath: 200)
    grader: str | None = None  # exact or math; None: what suits the data set
    answer: Any = None  # where an answer stands in a text: see `AnswerFormat.parse`; None: what suits the data set
    path: str | None = None
    prompt_template: str = "{problem}"
    problem_field: str = "problem"
    answer_field: str = "answer"
    id_field: str | None = None  # None: the line number
    difficulty_field: str | None = None
    metadata_fields: list[str] = field(default_factory=list)  # of the records, as they are, for verifiers to see
    skip_bad: bool = False  # records that don't fit are left out and counted; else the first is an error

    def __post_init__(self) -> None:
        if self.num_problems is not None and self.num_problems < 1:
            raise ValueError(f"data: num_problems must be >= 1, got {self.num_problems}")
        if self.grader is not None and self.grader not in KINDS:
            raise ValueError(f"data.grader: got {self.grader!r}, wanted one of {', '.join(KINDS)}")
        try:
            AnswerFormat.parse(self.answer)
        except ValueError as error:
            raise ValueError(f"data.answer: {error}") from None
        if "{problem}" not in self.prompt_template:
            raise ValueError(f"data: prompt_template must contain {{problem}}, got {self.prompt_template!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A problem and its reference answer, which only the grader gets."""

    problem: Problem
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """`skipped` says of each record that was left out what is wrong with it."""

    examples: tuple[Example, ...]
    skipped: tuple[str, ...] = ()


def load_dataset(config: DataConfig) -> Dataset:
    """Raises UserError for an unknown name, an unreadable or empty file, and a record that does not fit."""
    if config.name not in DATASETS:
        near = difflib.get_close_matches(config.name, DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"data.name: got {config.name!r}, wanted one of {', '.join(DATASETS)}{hint}")
    examples: list[Example] = []
    skipped: list[str] = []
    for example in DATASETS[config.name].load(config):
        if isinstance(example, Example):
            examples.append(example)
        elif config.skip_bad:
            skipped.append(str(example))
        else:
            raise example
    if not examples:
        why = f"; {len(skipped)} were skipped, the first: {skipped[0]}" if skipped else ""
        raise UserError(f"data: {config.path or config.name} holds no problem, wanted at least one{why}")
    ids = Counter(example.problem.id for example in examples)
    if len(ids) < len(examples):
        raise UserError(f"data: problem ids must be unique, got {ids.most_common(1)[0][0]!r} more than once")
    return Dataset(examples=tuple(examples), skipped=tuple(skipped))


def _tinymath(config: DataConfig) -> "Iterator[Example | UserError]":
    if config.split not in ("train", "dev", "test"):
        raise UserError(f"data.split: got {config.split!r}, wanted train, dev or test")
    for made in task.generate(config.split, config.num_problems or 200):
        metadata = _metadata(config, "a problem of tinymath", asdict(made))
        problem = Problem.from_prompt(made.id, made.prompt, difficulty=float(made.level), metadata=metadata)
        yield Example(problem=problem, reference=made.answer)


def _gsm8k(config: DataConfig) -> "Iterator[Example | UserError]":
    """GSM8K's own format: fields `question` and `answer`, the reference after `####`."""
    return _examples(replace(config, problem_field="question", answer_field="answer"))


def _jsonl(config: DataConfig) -> "Iterator[Example | UserError]":
    """Any JSON Lines file; MATH-500's fields are the defaults."""
    return _examples(config)


def _examples(config: DataConfig) -> "Iterator[Example | UserError]":
    """An error in the place of each record that does not fit. `num_problems` counts those that do."""
    taken = 0
    for number, line in _lines(config):
        if taken == config.num_problems:
            return
        try:
            example = _example(config, f"{config.path} line {number}", str(number), records.parse(line))
        except UserError:
            raise
        except ValueError as error:
            yield UserError(f"data: {config.path} line {number} {error}")
        else:
            taken += 1
            yield example


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetKind:
    """How to read a data set, and what suits its answers unless the configuration says otherwise."""

    load: Callable[[DataConfig], Iterator[Example | UserError]]  # an error in the place of a record that does not fit
    grader: str
    answer: str


DATASETS = {
    "tinymath": DatasetKind(load=_tinymath, grader="exact", answer="auto"),
    "gsm8k": DatasetKind(load=_gsm8k, grader="math", answer="gsm8k"),
    "jsonl": DatasetKind(load=_jsonl, grader="math", answer="auto"),
}


def _lines(config: DataConfig) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of those that are not blank."""
    if config.path is None:
        raise UserError(f"data.path is missing: {config.name} reads a JSON Lines file")
    path = Path(config.path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"data: can't read {path}: {error.strerror}") from None
    for number, line in enumerate(content.removeprefix(BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _example(config: DataConfig, owner: str, number: str, record: Mapping[str, Any]) -> Example:
    """Raises ValueError for a record that does not fit."""
    problem = records.text(record, config.problem_field)
    difficulty = None if config.difficulty_field is None else records.number(record, config.difficulty_field)
    return Example(
        problem=Problem.from_prompt(
            number if config.id_field is None else records.text(record, config.id_field),
            config.prompt_template.replace("{problem}", problem),
            difficulty=difficulty,
            metadata=_metadata(config, owner, record),
        ),
        reference=reference_answer(records.reference(record, config.answer_field)),
    )


def _metadata(config: DataConfig, owner: str, record: Mapping[str, Any]) -> dict[str, Any]:
    for name in config.metadata_fields:
        if name not in record:
            raise UserError(f"data.metadata_fields: {owner} has no field {name!r}, it has {', '.join(record)}")
    return {name: record[name] for name in config.metadata_fields}
