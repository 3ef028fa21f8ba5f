"""Data sets: problems for the strategies, reference answers for the grader, kept apart from the start.

What `metadata_fields` names goes along with the problem, where verifiers (and strategies) can see it. A rule verifier
needs there what it compares with; naming the field of the answer makes it an oracle, by the user's explicit word.

To add one: a function from `DataConfig` to examples and a line in `DATASETS`.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

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
    examples: tuple[Example, ...]


def load_dataset(config: DataConfig) -> Dataset:
    """Raises UserError for an unknown name, an unreadable or empty file, and a record that does not fit."""
    if config.name not in DATASETS:
        near = difflib.get_close_matches(config.name, DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"data.name: got {config.name!r}, wanted one of {', '.join(DATASETS)}{hint}")
    examples = tuple(DATASETS[config.name].load(config))
    if not examples:
        raise UserError(f"data: {config.path or config.name} holds no problem, wanted at least one")
    ids = [example.problem.id for example in examples]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise UserError(f"data: problem ids must be unique, got {twice!r} more than once")
    return Dataset(examples=examples)


def _tinymath(config: DataConfig) -> Iterator[Example]:
    if config.split not in ("train", "dev", "test"):
        raise UserError(f"data.split: got {config.split!r}, wanted train, dev or test")
    for made in task.generate(config.split, config.num_problems or 200):
        metadata = _metadata(config, "a problem of tinymath", asdict(made))
        problem = Problem.from_prompt(made.id, made.prompt, difficulty=float(made.level), metadata=metadata)
        yield Example(problem=problem, reference=made.answer)


def _gsm8k(config: DataConfig) -> Iterator[Example]:
    """GSM8K's own format: fields `question` and `answer`, the reference after `####`."""
    for number, record in _records(config):
        solution = _field(config, number, record, "answer")
        yield _example(config, number, record, "question", solution)


def _jsonl(config: DataConfig) -> Iterator[Example]:
    """Any JSON Lines file; MATH-500's fields are the defaults."""
    for number, record in _records(config):
        answer = _field(config, number, record, config.answer_field)
        yield _example(config, number, record, config.problem_field, answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetKind:
    """How to read a data set, and what suits its answers unless the configuration says otherwise."""

    load: Callable[[DataConfig], Iterator[Example]]
    grader: str
    answer: str


DATASETS = {
    "tinymath": DatasetKind(load=_tinymath, grader="exact", answer="auto"),
    "gsm8k": DatasetKind(load=_gsm8k, grader="math", answer="gsm8k"),
    "jsonl": DatasetKind(load=_jsonl, grader="math", answer="auto"),
}


def _records(config: DataConfig) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, record) of the first `num_problems` lines that are not blank."""
    if config.path is None:
        raise UserError(f"data.path is missing: {config.name} reads a JSON Lines file")
    path = Path(config.path)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"data: can't read {path}: {error.strerror}") from None
    taken = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if taken == config.num_problems:
            return
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"data: {path} line {number} is not UTF-8 (byte {error.start}: {error.reason})") from None
        except json.JSONDecodeError as error:
            raise UserError(f"data: {path} line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"data: {path} line {number} must be a JSON object, got {type(record).__name__}")
        taken += 1
        yield number, record


def _field(config: DataConfig, number: int, record: dict[str, Any], name: str) -> str:
    if name not in record:
        raise UserError(f"data: {config.path} line {number} has no field {name!r}, it has {', '.join(record)}")
    return str(record[name])


def _example(config: DataConfig, number: int, record: dict[str, Any], problem_field: str, answer: str) -> Example:
    prompt = config.prompt_template.replace("{problem}", _field(config, number, record, problem_field))
    difficulty = None
    if config.difficulty_field is not None:
        text = _field(config, number, record, config.difficulty_field)
        digits = "".join(filter(str.isdigit, text))  # "Level 4"
        if not digits:
            raise UserError(f"data: {config.path} line {number}: {config.difficulty_field} is no number: {text!r}")
        difficulty = float(digits)
    id = str(number) if config.id_field is None else _field(config, number, record, config.id_field)
    metadata = _metadata(config, f"{config.path} line {number}", record)
    problem = Problem.from_prompt(id, prompt, difficulty=difficulty, metadata=metadata)
    return Example(problem=problem, reference=reference_answer(answer))


def _metadata(config: DataConfig, owner: str, record: Mapping[str, Any]) -> dict[str, Any]:
    for name in config.metadata_fields:
        if name not in record:
            raise UserError(f"data.metadata_fields: {owner} has no field {name!r}, it has {', '.join(record)}")
    return {name: record[name] for name in config.metadata_fields}
